"""`admitone resync` publishes the present state of everything."""

from collections.abc import Iterator
from uuid import UUID

import httpx
import pytest

from admitone.kernel.settings import Settings
from tests.commands.conftest import change, settings_of, until, value
from tests.engines import short_folder, wait_until
from tests.whole import Up, running_up

FADO = {
    "title": "Fado night", "price": 19.99, "faceValue": 25, "venue": "Clube de Fado", "section": "A", "row": "4",
    "seat": "12", "eventDate": "2027-05-01T19:30:00Z", "note": "Aisle",
}  # fmt: skip


@pytest.fixture(scope="module")
def forgetful() -> Iterator[Up]:
    """A marketplace whose databases lose what must not be lost; `admitone check` would report that."""
    with short_folder() as folder, running_up(folder / "data") as up:
        yield up


def is_refused(up: Up, session: str) -> bool:
    return httpx.get(f"{up.url}/api/orders", headers={"cookie": f"session={session}"}).status_code == 401


async def test_a_resync_leads_a_consumer_without_history_to_the_present_state(forgetful: Up) -> None:
    up, settings = forgetful, settings_of(forgetful)
    with up.person("alice") as alice, up.person("bob") as bob:
        ticket = alice.post("/api/tickets", json=FADO).json()["id"]
        alice.put(f"/api/tickets/{ticket}", json={**FADO, "seat": "13"})
        with up.person("carol") as carol:
            session = carol.cookies["session"]
            carol.post("/api/users/signout")
        await until(settings, "orders", "SELECT version FROM ticket WHERE id = $1", UUID(ticket), becomes=1)
        await until(settings, "orders", "SELECT count(*) FROM revoked_session", becomes=1)
        await change(settings, "orders", "DELETE FROM ticket")
        await change(settings, "orders", "DELETE FROM revoked_session")
        for producer in ("tickets", "auth"):
            await change(settings, producer, "DELETE FROM outbox")
        assert bob.post("/api/orders", json={"ticketId": ticket}).status_code == 404

        resynced = up.run("resync")

        assert resynced.returncode == 0, resynced.stderr
        assert [line.split(":")[0] for line in resynced.stdout.splitlines()] == [
            "auth",
            "tickets",
            "orders",
            "payments",
        ]
        wait_until(
            lambda: bob.post("/api/orders", json={"ticketId": ticket}).status_code == 201, "orders has the ticket"
        )
        order = bob.get("/api/orders").json()["orders"][0]
        wanted = {**FADO, "id": ticket, "currency": "usd", "version": 1, "seat": "13"}
        assert order["ticket"] == wanted
        bob.delete(f"/api/orders/{order['id']}")
        wait_until(lambda: is_refused(up, session), "carol's ended session is refused again")


async def test_a_resync_changes_nothing_for_consumers_that_are_up_to_date(up: Up, settings: Settings) -> None:
    with up.person("alice") as alice, up.person("bob") as bob:
        for _ in range(3):
            ticket = alice.post("/api/tickets", json=FADO).json()["id"]
            wait_until(lambda: bob.post("/api/orders", json={"ticketId": ticket}).status_code == 201, "bob orders it")  # noqa: B023
        held, cancelled, paid = [each["id"] for each in bob.get("/api/orders").json()["orders"]][:3]
        bob.delete(f"/api/orders/{cancelled}")
        wait_until(
            lambda: bob.post("/api/payments", json={"orderId": paid, "token": "tok_visa"}).status_code == 201,
            "bob pays",
        )
        wait_until(lambda: bob.get(f"/api/orders/{paid}").json()["status"] == "complete", "bob has bought it")

        def states() -> list[object]:
            orders = [bob.get(f"/api/orders/{each}").json() for each in (held, cancelled, paid)]
            tickets = [alice.get(f"/api/tickets/{each['ticket']['id']}").json() for each in orders]
            return [{**each, "now": ""} for each in orders] + tickets

        before = states()
        assert up.run("resync").returncode == 0
        for service in ("auth", "tickets", "orders", "payments"):
            await until(settings, service, "SELECT count(*) FROM outbox WHERE stream_sequence IS NULL", becomes=0)
        assert up.run("check").returncode == 0
        assert states() == before


async def test_a_consumer_that_lacks_a_pruned_event_gets_a_snapshot(forgetful: Up) -> None:
    up, settings = forgetful, settings_of(forgetful)
    replica = "SELECT version FROM ticket WHERE id = $1"
    with up.person("alice") as alice:
        ticket = alice.post("/api/tickets", json=FADO).json()["id"]
        await until(settings, "orders", replica, UUID(ticket), becomes=0)
        await change(settings, "orders", "DELETE FROM ticket WHERE id = $1", UUID(ticket))
        await change(settings, "tickets", "DELETE FROM outbox WHERE aggregate = $1", UUID(ticket))
        alice.put(f"/api/tickets/{ticket}", json={**FADO, "seat": "13"})
        await until(settings, "orders", replica, UUID(ticket), becomes=1)
    assert await value(settings, "orders", "SELECT seat FROM ticket WHERE id = $1", UUID(ticket)) == "13"
