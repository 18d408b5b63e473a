"""Payments acts on Stripe only for its own data, and test cards buy nothing on a public address."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.settings import Settings, SettingsError
from admitone.local.nats import Nats
from admitone.local.server import free_port
from admitone.payments.resources import refuse_public_test_payments
from admitone.payments.service import SERVICE
from tests.engines import Databases
from tests.stripe_sandbox.running import API_KEY, WEBHOOK_SECRET, running_sandbox
from tests.support import app_of, settings_for, with_settings

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content")

StartNats = Callable[..., Nats]

TEST_KEY = {"STRIPE_SECRET_KEY": "sk_test_1"}
RESTRICTED_TEST_KEY = {"STRIPE_SECRET_KEY": "rk_test_1"}
LIVE_KEY = {"STRIPE_SECRET_KEY": "sk_live_1"}
PUBLIC = {"ADMITONE_ORIGIN": "https://tickets.example"}
EVERY_ADDRESS = {"ADMITONE_HOST": "0.0.0.0"}  # noqa: S104


async def settings_of(databases: Databases, start_nats: StartNats, **chosen: Any) -> Settings:
    chosen = {"stripe_secret_key": API_KEY, "stripe_webhook_secret": WEBHOOK_SECRET, **chosen}
    return await settings_for(databases, start_nats, AUTH, SERVICE, **chosen)


async def start(settings: Settings) -> None:
    """Start payments, and stop it."""
    async with app_of((AUTH, SERVICE), settings):
        pass


async def test_a_copy_of_the_data_in_another_database_does_not_start(
    databases: Databases, start_nats: StartNats
) -> None:
    async with running_sandbox() as sandbox:
        settings = await settings_of(databases, start_nats, stripe_url=sandbox.url)
        await start(settings)
        await start(settings)
        original = urlsplit(settings.database_urls["payments"]).path.removeprefix("/")
        copy = await databases.fresh("payments")
        server = await asyncpg.connect(databases.postgres.url())
        await server.execute(f"DROP DATABASE {copy.name}")
        await server.execute(f"CREATE DATABASE {copy.name} TEMPLATE {original} OWNER payments_migrator")
        await server.close()
        copied = with_settings(settings, database_urls=settings.database_urls | {"payments": copy.url})
        with pytest.raises(SettingsError, match="admitone adopt"):
            await start(copied)
        await start(settings)


async def test_a_key_of_another_account_does_not_start(databases: Databases, start_nats: StartNats) -> None:
    settings = await settings_of(databases, start_nats)
    async with running_sandbox() as sandbox:
        await start(settings.with_variables(ADMITONE_STRIPE_URL=sandbox.url))
    async with running_sandbox() as another:
        with pytest.raises(SettingsError, match=r"acct_.*admitone adopt --new-account"):
            await start(settings.with_variables(ADMITONE_STRIPE_URL=another.url))


async def test_payments_starts_while_stripe_is_unreachable(databases: Databases, start_nats: StartNats) -> None:
    await start(await settings_of(databases, start_nats, stripe_url=f"http://127.0.0.1:{free_port()}"))


def refuse(environment: dict[str, str]) -> None:
    settings = Settings.from_environment(environment)
    refuse_public_test_payments(settings, listens_at=settings.host)


@pytest.mark.parametrize("keys", [{}, TEST_KEY, RESTRICTED_TEST_KEY], ids=str)
@pytest.mark.parametrize(
    "address",
    [
        PUBLIC,
        EVERY_ADDRESS,
        {"ADMITONE_HOST": "::"},
        {"ADMITONE_HOST": "192.168.1.7"},
        EVERY_ADDRESS | {"ADMITONE_ORIGIN": "http://localhost:8000"},
        {"ADMITONE_ORIGIN": "http://localhost.example"},
    ],
    ids=str,
)
def test_nobody_elsewhere_gets_a_ticket_for_a_test_card(keys: dict[str, str], address: dict[str, str]) -> None:
    with pytest.raises(
        SettingsError, match=r"test cards, but .* set STRIPE_SECRET_KEY to a live key, or ADMITONE_ALLOW"
    ):
        refuse(keys | address)
    refuse(keys | address | {"ADMITONE_ALLOW_TEST_PAYMENTS": "1"})
    refuse(address | LIVE_KEY)


@pytest.mark.parametrize("keys", [{}, TEST_KEY], ids=str)
@pytest.mark.parametrize(
    "address",
    [
        {},
        {"ADMITONE_HOST": "::1"},
        {"ADMITONE_HOST": "localhost"},
        {"ADMITONE_ORIGIN": "http://tickets.localhost"},
        {"ADMITONE_ORIGIN": "https://127.0.0.2:8443"},
    ],
    ids=str,
)
def test_test_cards_are_for_this_machine(keys: dict[str, str], address: dict[str, str]) -> None:
    refuse(keys | address)


def test_behind_a_proxy_the_origin_decides() -> None:
    settings = Settings.from_environment(EVERY_ADDRESS | {"ADMITONE_ORIGIN": "http://localhost:8080"})
    refuse_public_test_payments(settings)
