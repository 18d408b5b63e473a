"""`admitone replay` publishes stored events again."""

from uuid import UUID

from admitone.kernel.settings import Settings
from tests.commands.conftest import change, until, value
from tests.engines import wait_until
from tests.whole import Up


async def test_a_replay_publishes_everything_again_and_changes_nothing(up: Up, settings: Settings) -> None:
    with up.person("alice") as alice:
        ticket = alice.post("/api/tickets", json={"title": "Fado night", "price": 19.99}).json()["id"]
        alice.put(f"/api/tickets/{ticket}", json={"title": "Fado night", "price": 25})
    replica = "SELECT version FROM ticket WHERE id = $1"
    await until(settings, "orders", replica, UUID(ticket), becomes=1)
    copies = "SELECT min(copies) FROM outbox WHERE stream_sequence IS NOT NULL HAVING bool_and(stream_sequence > 0)"
    before = await value(settings, "tickets", copies)
    replayed = up.run("replay", "tickets", "auth")
    assert replayed.returncode == 0, replayed.stderr
    assert replayed.stdout.startswith("tickets: ")
    assert "auth: " in replayed.stdout
    assert "orders: " not in replayed.stdout
    assert isinstance(before, int)
    await until(settings, "tickets", "SELECT count(*) FROM outbox WHERE stream_sequence IS NULL", becomes=0)
    assert await value(settings, "tickets", copies) == before + 1
    assert await value(settings, "orders", replica, UUID(ticket)) == 1
    assert up.run("check").returncode == 0


async def test_a_replay_restores_a_lost_replica(up: Up, settings: Settings) -> None:
    with up.person("alice") as alice, up.person("bob") as bob:
        ticket = alice.post("/api/tickets", json={"title": "Swan Lake", "price": 85}).json()["id"]
        await until(settings, "orders", "SELECT version FROM ticket WHERE id = $1", UUID(ticket), becomes=0)
        await change(settings, "orders", "DELETE FROM inbox")
        await change(settings, "orders", "DELETE FROM ticket WHERE id = $1", UUID(ticket))
        assert bob.post("/api/orders", json={"ticketId": ticket}).status_code == 404
        assert up.run("replay", "tickets").returncode == 0
        wait_until(
            lambda: bob.post("/api/orders", json={"ticketId": ticket}).status_code == 201, "orders has the ticket again"
        )
    assert up.run("replay").returncode == 0
    assert up.run("check").returncode == 0
