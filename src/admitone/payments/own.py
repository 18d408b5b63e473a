"""What payments runs on beside its database: the door to Stripe, and the gatherers of its two decisions."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

from admitone.kernel.gather import Gatherer
from admitone.kernel.service import Running
from admitone.kernel.settings import SettingsError
from admitone.payments import gateway, paying, store
from admitone.payments.gateway import Gateway
from admitone.payments.model import Payment
from admitone.payments.paying import Ask, Begun, Learnt

# The job that works off webhooks; see `jobs.py`.
LISTENING = "work off webhooks"


@dataclass(frozen=True)
class Own:
    """Each payment asks alone; those that ask at the same time share a transaction."""

    stripe: Gateway
    begin: Gatherer[Ask, Begun]
    learn: Gatherer[Learnt, Payment]
    store_webhook: Gatherer[tuple[str, str], None]


def own(service: Running) -> Own:
    """Return what `opened` yielded to this service."""
    return cast("Own", service.own)


@asynccontextmanager
async def opened(service: Running) -> AsyncIterator[Own]:
    """Open the door to Stripe; raises SettingsError without a key for it."""
    settings, database = service.settings, service.database
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
        database.alarm(LISTENING).set()
        return [None] * len(came)

    installation = await store.installation_id(database)
    async with gateway.opened(
        settings.stripe_url, settings.stripe_secret_key, settings.stripe_webhook_secret, installation
    ) as stripe:
        yield Own(stripe, Gatherer(begin), Gatherer(learn), Gatherer(store_webhooks))
