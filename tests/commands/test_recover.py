"""`admitone recover` brings a database that was restored to an earlier time up to what was published since."""

from pathlib import Path
from uuid import UUID

from admitone.kernel.settings import Settings
from tests.commands.conftest import change, settings_of, until, value
from tests.engines import short_folder, wait_until
from tests.whole import Up, run, running_up, start_up

FADO = {"title": "Fado night", "price": 19.99, "seat": "12"}
DROP_TICKETS = """
ALTER TABLE ticket DISABLE TRIGGER ALL;
DELETE FROM ticket;
DELETE FROM outbox;
DELETE FROM inbox;
DELETE FROM aggregate_version;
ALTER TABLE ticket ENABLE TRIGGER ALL;
"""


async def test_a_marketplace_with_a_restored_database_starts_again_once_it_is_recovered() -> None:
    with short_folder() as parent:
        folder = parent / "data"
        with running_up(folder) as up:
            settings = settings_of(up)
            with up.person("alice") as alice, up.person("bob") as bob:
                ticket = alice.post("/api/tickets", json=FADO).json()["id"]
                wait_until(lambda: bob.post("/api/orders", json={"ticketId": ticket}).status_code == 201, "bob orders")
                replica = "SELECT status FROM ticket WHERE id = $1"
                await until(settings, "orders", replica, UUID(ticket), becomes="reserved")
            refused = up.run("recover", "tickets")
            assert (refused.returncode, "tickets runs: stop it" in refused.stderr) == (2, True)
            shown = await value(settings, "tickets", "SELECT shown FROM ticket")
            await change(settings, "tickets", DROP_TICKETS)

        refused_start = start_up(folder)
        output, _ = refused_start.communicate(timeout=60)
        assert refused_start.returncode == 2, output
        assert "`admitone recover tickets`" in output

        recovered = run("recover", "tickets", ADMITONE_DATA=str(folder))
        assert recovered.returncode == 0, recovered.stderr
        assert recovered.stdout == (
            "tickets: 2 events returned from the bus\ntickets: what it had consumed arrives again; start the service\n"
        )
        with running_up(folder) as up:
            assert await value(settings_of(up), "tickets", "SELECT shown FROM ticket") == shown
            assert up.run("check").returncode == 0


def test_without_a_known_database_the_command_says_what_to_set(tmp_path: Path) -> None:
    refused = run("recover", "orders", ADMITONE_DATA=str(tmp_path))
    assert refused.returncode == 2
    assert "ADMITONE_ORDERS_DATABASE_URL is not set" in refused.stderr


def test_a_bus_that_is_away_is_named(up: Up, settings: Settings) -> None:
    refused = run(
        "recover",
        "orders",
        ADMITONE_ORDERS_DATABASE_URL=settings.database_urls["orders"],
        NATS_URL="nats://127.0.0.1:9",
    )
    assert refused.returncode == 2
    assert "NATS at 127.0.0.1:9 cannot be reached" in refused.stderr
