"""What payments is configured with and opens at start: the gateway to Stripe, and batchers of its transactions."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Final
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from admitone.kernel.database.batching import Batcher
from admitone.kernel.errors import Refusal
from admitone.kernel.running import RunningService
from admitone.kernel.settings import Settings, SettingsError, Variable
from admitone.kernel.waiting import WaitLimit
from admitone.payments import gateway, store, transitions
from admitone.payments.beginning import Begun, PaymentRequest
from admitone.payments.gateway import NO_RESPONSE, Gateway, WrongAccount
from admitone.payments.model import Payment, ProviderResult

log = logging.getLogger(__name__)

# Source: Stripe, "API keys": secret and restricted keys of a sandbox, which take test cards only.
_TEST_KEYS: Final = ("sk_test_", "rk_test_")
_CHECK_SECONDS: Final = 5.0
_COPIED: Final = (
    "The data of payments was copied from another database, whose payments at Stripe must not be changed from here. Run"
    " `admitone adopt` if this database replaces the other one, or `admitone adopt --new-installation` if it is a copy"
)


class PaymentSettings(msgspec.Struct, frozen=True):
    """`stripe_url` replaces Stripe's address, for the sandbox. Two webhook secrets are separated by a comma."""

    payment_attempts: Annotated[int, Variable("ADMITONE_PAYMENT_ATTEMPTS", 1, 100)] = 3
    stripe_secret_key: Annotated[str, Variable("STRIPE_SECRET_KEY", is_secret=True)] = ""
    stripe_webhook_secret: Annotated[str, Variable("STRIPE_WEBHOOK_SECRET", is_secret=True)] = ""
    stripe_url: Annotated[str, Variable("ADMITONE_STRIPE_URL")] = ""
    allow_test_payments: Annotated[bool, Variable("ADMITONE_ALLOW_TEST_PAYMENTS")] = False

    @property
    def are_for_tests(self) -> bool:
        """Whether tickets are sold for test cards, which are no money."""
        return not self.stripe_secret_key or self.stripe_secret_key.startswith(_TEST_KEYS)


def refuse_public_test_payments(settings: Settings, *, listens_at: str = "") -> None:
    """Raise SettingsError if people on other machines could get tickets for test cards.

    The origin decides, because a service in a container listens at every address; `listens_at` is the address of a
    process that people reach without a proxy.
    """
    payment_settings = settings.read(PaymentSettings)
    if not payment_settings.are_for_tests or payment_settings.allow_test_payments:
        return
    hosts = (urlsplit(settings.public_origin).hostname or "", listens_at)
    if public := [host for host in hosts if host and not _is_of_this_machine(host)]:
        raise SettingsError(
            f"Payments take test cards, but people on other machines can reach {public[0]}: set STRIPE_SECRET_KEY to a"
            " live key, or ADMITONE_ALLOW_TEST_PAYMENTS=1 if tickets may be had for test cards"
        )


def _is_of_this_machine(host: str) -> bool:
    """Whether a name or address leads to the machine it is used on. Source: RFC 6761, section 6.3, `localhost.`"""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@dataclass(frozen=True)
class Resources:
    """`apply` takes a payment's id and its result; `store_webhook` an event's id and body.

    `outcome_waits` bounds waiting for the outcome of a payment which another request began.
    """

    attempts_max: int
    gateway: Gateway
    begin: Batcher[PaymentRequest, Begun | Refusal]
    apply: Batcher[tuple[UUID, ProviderResult], Payment]
    store_webhook: Batcher[tuple[str, str], None]
    outcome_waits: WaitLimit


async def _check_account(opened: Gateway) -> None:
    """Check the account now if Stripe can be reached soon; otherwise the first request does."""
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            await opened.check_account()
    except WrongAccount as error:
        raise SettingsError(str(error)) from error
    except NO_RESPONSE as error:
        log.warning("the account at Stripe could not be checked yet", extra={"error": repr(error)})


@asynccontextmanager
async def open_resources(service: RunningService[None]) -> AsyncIterator[Resources]:
    """Open the gateway.

    Raises SettingsError without Stripe's keys, if test cards would buy tickets in public, and if the data belongs to
    another database or to another account of Stripe.
    """
    settings, database = service.settings.read(PaymentSettings), service.database
    if not settings.stripe_secret_key:
        raise SettingsError("STRIPE_SECRET_KEY is not set")
    if not settings.stripe_webhook_secret:
        raise SettingsError("STRIPE_WEBHOOK_SECRET is not set")
    refuse_public_test_payments(service.settings)

    async def begin(requests: Sequence[PaymentRequest]) -> list[Begun | Refusal]:
        return await transitions.begin_payments(database, requests, settings.payment_attempts)

    async def apply(results: Sequence[tuple[UUID, ProviderResult]]) -> list[Payment]:
        return await transitions.apply_results(database, results, settings.payment_attempts)

    async def store_webhooks(webhooks: Sequence[tuple[str, str]]) -> list[None]:
        await store.add_webhooks(database, webhooks)
        return [None] * len(webhooks)

    binding = await store.bind_installation(database)
    if binding.database != binding.present_database:
        raise SettingsError(_COPIED)
    async with gateway.open_gateway(
        settings.stripe_url,
        settings.stripe_secret_key,
        settings.stripe_webhook_secret,
        binding.id,
        lambda account: store.bind_account(database, account),
    ) as opened:
        await _check_account(opened)
        yield Resources(
            attempts_max=settings.payment_attempts,
            gateway=opened,
            begin=Batcher(begin),
            apply=Batcher(apply),
            store_webhook=Batcher(store_webhooks),
            # Beyond this the response is 202 at once: the payment is pending.
            outcome_waits=WaitLimit(per_account_max=100, in_all_max=1000),
        )
