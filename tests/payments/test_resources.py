"""Payments acts on Stripe only with the database and the account that its data belongs to."""

from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.settings import Settings, SettingsError
from admitone.local.nats import Nats
from admitone.local.server import free_port
from admitone.payments.service import SERVICE
from tests.engines import Databases
from tests.stripe_sandbox.running import API_KEY, WEBHOOK_SECRET, running_sandbox
from tests.support import app_of, settings_for, with_settings

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content")

StartNats = Callable[..., Nats]


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
        original = settings.database_urls["payments"].rpartition("/")[2]
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
