"""What payments is configured with and opens at start: the gateway to Stripe, and batchers for its decisions."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import msgspec

from admitone.kernel.database.batching import Batcher
from admitone.kernel.running import RunningService
from admitone.kernel.settings import SettingsError, Variable
from admitone.payments import gateway, paying, store
from admitone.payments.gateway import Gateway
from admitone.payments.model import Payment
from admitone.payments.paying import Ask, Begun, Learnt

# The job that processes webhooks; see `jobs.py`.
LISTENING = "process webhooks"


class PaymentSettings(msgspec.Struct, frozen=True):
    """`stripe_url` replaces Stripe's address, for the sandbox. Two webhook secrets are separated by a comma."""

    payment_attempts: Annotated[int, Variable("ADMITONE_PAYMENT_ATTEMPTS", 1, 100)] = 3
    stripe_secret_key: Annotated[str, Variable("STRIPE_SECRET_KEY", is_secret=True)] = ""
    stripe_webhook_secret: Annotated[str, Variable("STRIPE_WEBHOOK_SECRET", is_secret=True)] = ""
    stripe_url: Annotated[str, Variable("ADMITONE_STRIPE_URL")] = ""


@dataclass(frozen=True)
class Resources:
    payment_attempts: int
    stripe: Gateway
    begin: Batcher[Ask, Begun]
    learn: Batcher[Learnt, Payment]
    store_webhook: Batcher[tuple[str, str], None]


@asynccontextmanager
async def open_resources(service: RunningService[None]) -> AsyncIterator[Resources]:
    """Open the gateway; raises SettingsError without the provider's key and webhook secret."""
    settings, database = service.settings.read(PaymentSettings), service.database
    if not settings.stripe_secret_key:
        raise SettingsError("STRIPE_SECRET_KEY is not set")
    if not settings.stripe_webhook_secret:
        raise SettingsError("STRIPE_WEBHOOK_SECRET is not set")

    async def begin(asks: Sequence[Ask]) -> list[Begun]:
        return await paying.begin(database, asks, settings.payment_attempts)

    async def learn(learnt: Sequence[Learnt]) -> list[Payment]:
        return await paying.learn(database, learnt, settings.payment_attempts)

    async def store_webhooks(came: Sequence[tuple[str, str]]) -> list[None]:
        await store.add_webhooks(database, "stripe", [event_id for event_id, _ in came], [body for _, body in came])
        database.signal(LISTENING).set()
        return [None] * len(came)

    installation = await store.installation_id(database)
    async with gateway.opened(
        settings.stripe_url, settings.stripe_secret_key, settings.stripe_webhook_secret, installation
    ) as stripe:
        yield Resources(settings.payment_attempts, stripe, Batcher(begin), Batcher(learn), Batcher(store_webhooks))
