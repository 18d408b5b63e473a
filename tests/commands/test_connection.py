"""Commands find the running marketplace by its data folder."""

import asyncio
from pathlib import Path

import nats
import pytest

from admitone.kernel.settings import Settings
from tests.whole import Up, run


def test_migrate_finds_the_databases_of_the_running_marketplace(up: Up) -> None:
    migrated = up.run("migrate", "orders")
    assert migrated.returncode == 0
    assert migrated.stdout == "orders: up to date\n"


@pytest.mark.parametrize("command", [("migrate", "orders"), ("adopt",), ("replay", "orders")])
def test_a_database_that_was_chosen_is_not_replaced_by_that_of_the_running_marketplace(
    up: Up, command: tuple[str, ...]
) -> None:
    service = command[1] if len(command) > 1 else "payments"
    url = {f"ADMITONE_{service.upper()}_DATABASE_URL": "postgresql://anybody:secret@127.0.0.1:1/elsewhere"}
    refused = up.run(*command, **url)
    assert refused.returncode != 0
    assert f"The database of {service} at 127.0.0.1:1 cannot be reached" in refused.stderr


async def test_the_accounts_of_the_bus_are_restricted(settings: Settings) -> None:
    refused: asyncio.Queue[Exception] = asyncio.Queue()
    client = await nats.connect(settings.nats_urls["expiration"], error_cb=refused.put)
    try:
        await client.publish("events.orders.OrderCompleted", b"{}")
        error = await asyncio.wait_for(refused.get(), timeout=10)
        assert "permissions violation" in str(error).lower()
    finally:
        await client.close()


@pytest.mark.parametrize("arguments", [("check",), ("replay",), ("dead-letters", "list"), ("migrate",)])
def test_without_a_marketplace_a_command_fails_with_one_line(arguments: tuple[str, ...], folder: Path) -> None:
    refused = run(*arguments, ADMITONE_DATA=str(folder))
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: No database of ")
    assert len(refused.stderr.strip().splitlines()) == 1
