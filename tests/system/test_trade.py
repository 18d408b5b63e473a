"""The reference's defects as scenarios, where no money is involved: several services, real PostgreSQL and NATS."""

import asyncio
import json
import os
import random
import signal
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from admitone.events import OrderCreated, TicketUpdated
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import event_types, wrap
from admitone.local.installation import running_settings
from admitone.orders.resources import open_resources
from tests import engines
from tests.support import StartNats, eventually, messages_of, published_by, sign_up, with_settings
from tests.system.support import Market, marketplace
from tests.whole import running_up

World = tuple[engines.Databases, StartNats]


@pytest.fixture
def world(databases: engines.Databases, start_nats: StartNats) -> World:
    return databases, start_nats


async def _market(
    stack: AsyncExitStack, world: World, *services: str, **chosen: Any
) -> tuple[Market, tuple[httpx.AsyncClient, httpx.AsyncClient, httpx.AsyncClient]]:
    """A marketplace with Alice, Bob and Carol in it, for as long as the stack is open."""
    market = await stack.enter_async_context(marketplace(*world, *services, **chosen))
    alice, bob, carol = [await stack.enter_async_context(market.person(name)) for name in ("alice", "bob", "carol")]
    return market, (alice, bob, carol)


async def test_s01_everything_works_while_the_bus_is_down_and_arrives_once_afterwards(world: World) -> None:
    async with marketplace(*world) as market, market.person("alice") as alice, market.person("bob") as bob:
        before = await market.lists(alice)
        os.kill(market.nats.pid, signal.SIGKILL)
        listed = (await alice.post("/api/tickets", json={"title": "While it was down", "price": 5})).json()
        order = await market.reserves(bob, before)
        other = await bob.get(f"/api/orders/{order['id']}")
        assert other.json()["status"] == "created"
        assert (await market.ticket(before))["status"] == "available"  # tickets has not consumed it yet
        watching = asyncio.create_task(market.nats.watch())  # starts it again on its port
        await market.ticket_becomes(before, "reserved", 20)

        async def replicated() -> object:
            return await market.database("orders").fetchval("SELECT true FROM ticket WHERE id = $1", listed["id"])

        await eventually(replicated, "orders has the ticket", 20)
        versions = [
            (each["type"], each["version"])
            for each in await published_by(market.app, "tickets")
            if each["id"] == before["id"]
        ]
        assert versions == [("TicketCreated", 0), ("TicketUpdated", 1)]
        watching.cancel()


def test_s02_an_event_whose_service_was_killed_before_publishing_arrives(folder: Path) -> None:
    with running_up(folder, "--processes") as up, up.person("alice") as alice, up.person("bob") as bob:
        ticket = alice.post("/api/tickets", json={"title": "Fado night", "price": 19.99}).json()
        engines.wait_until(
            lambda: bob.post("/api/orders", json={"ticketId": str(new_id())}).status_code == 404, "orders answers"
        )
        nats = up.pid("nats")
        os.kill(nats, signal.SIGSTOP)  # the bus acknowledges nothing from here on
        try:
            order = _reserved(bob, ticket)
            os.kill(up.pid("processes/orders"), signal.SIGKILL)
        finally:
            os.kill(nats, signal.SIGCONT)
        engines.wait_until(
            lambda: bob.get(f"/api/tickets/{ticket['id']}").json()["status"] == "reserved", "the lock arrives", 30
        )
        assert bob.get(f"/api/tickets/{ticket['id']}").json()["orderId"] == order["id"]


def _reserved(buyer: httpx.Client, ticket: dict[str, Any]) -> dict[str, Any]:
    """Reserve a ticket as soon as orders has its replica."""
    deadline = time.monotonic() + 10
    while (answer := buyer.post("/api/orders", json={"ticketId": ticket["id"]})).status_code != 201:
        assert time.monotonic() < deadline, answer.text
    order: dict[str, Any] = answer.json()
    return order


async def test_s03_the_whole_history_delivered_again_changes_nothing(world: World) -> None:
    async with marketplace(*world) as market, market.person("alice") as alice, market.person("bob") as bob:
        tickets = [await market.lists(alice, price=number + 1) for number in range(5)]
        for ticket in tickets[:3]:
            await market.locked(bob, ticket)
        cancelled = await market.locked(bob, tickets[3])
        await bob.delete(f"/api/orders/{cancelled['id']}")
        await market.ticket_becomes(tickets[3], "available")
        await market.settled()

        async def state() -> list[Any]:
            queries = {
                "tickets": "SELECT id, version, status, order_id FROM ticket ORDER BY id",
                "orders": "SELECT id, version, status, order_id FROM ticket ORDER BY id",
                "expiration": "SELECT order_id FROM deadline ORDER BY order_id",
            }
            return [[tuple(row) for row in await market.database(name).fetch(sql)] for name, sql in queries.items()]

        before = await state()
        bus = Bus("admin")
        bus.start(market.nats.url("admin"))
        await bus.ready()
        for producer in ("tickets", "orders", "auth"):
            rows = await market.database(producer).fetch("SELECT * FROM outbox ORDER BY position")
            for copy in range(4):
                for row in rows:
                    message = wrap(
                        row["id"], producer, row["type"], row["aggregate"], row["recorded_at"], row["data"], None
                    )
                    subject = f"events.{event_types()[row['type']].producer}.{row['type']}"
                    await bus._client.publish(subject, message, headers={"Nats-Msg-Id": f"{row['id']} again {copy}"})
        marker = await market.lists(alice, title="After the storm")
        await market.locked(bob, marker)
        await bus.close()
        after = await state()
        assert [
            [row for row in rows if marker["id"] not in map(str, row)][: len(old)]
            for rows, old in zip(after, before, strict=True)
        ] == before


async def test_o11_o13_o17_what_orders_consumes_is_acknowledged(world: World) -> None:
    async with AsyncExitStack() as stack:
        market, (alice, bob, _) = await _market(stack, world, hold_seconds=1)
        ticket = await market.lists(alice)  # TicketCreated
        await alice.put(f"/api/tickets/{ticket['id']}", json={"title": "Cheaper", "price": 9})  # TicketUpdated

        async def updated() -> bool:
            seen = await market.database("orders").fetchval("SELECT version FROM ticket WHERE id = $1", ticket["id"])
            return bool(seen == 1)

        await eventually(updated, "orders knows the new price")
        order = await market.reserves(bob, ticket)
        await market.order_becomes(bob, order, "cancelled")  # OrderExpired
        bus = Bus("admin")
        bus.start(market.nats.url("admin"))
        await bus.ready()

        async def all_acknowledged() -> bool:
            for producer in ("tickets", "expiration"):
                consumer = await bus.jetstream.consumer_info(producer, "orders")
                assert consumer.ack_floor is not None
                if consumer.num_ack_pending or consumer.num_pending or not consumer.ack_floor.stream_seq:
                    return False
            return True

        await eventually(all_acknowledged, "nothing is left to acknowledge")
        await bus.close()


@pytest.mark.parametrize("buyers", [200])
async def test_s05_n_concurrent_orders_for_one_ticket_make_one_lock(world: World, buyers: int) -> None:
    async with marketplace(*world) as market, market.person("alice") as alice:
        ticket = await market.lists(alice)
        people = [market.person(f"buyer-{number}") for number in range(buyers)]
        answers = await asyncio.gather(*(each.post("/api/orders", json={"ticketId": ticket["id"]}) for each in people))
        assert sorted(each.status_code for each in answers) == [201] + [400] * (buyers - 1)
        assert all(
            messages_of(each) == [("Ticket is already reserved", None)] for each in answers if each.status_code == 400
        )
        winner = next(each.json() for each in answers if each.status_code == 201)
        shown = await market.ticket_becomes(ticket, "reserved")
        assert (shown["orderId"], shown["version"]) == (winner["id"], 1)


async def test_s06_an_old_deadline_leaves_the_next_buyers_lock_alone(world: World) -> None:
    async with AsyncExitStack() as stack:
        market, (alice, bob, carol) = await _market(stack, world, hold_seconds=2)
        ticket = await market.lists(alice)
        bobs = await market.locked(bob, ticket)
        assert (await bob.delete(f"/api/orders/{bobs['id']}")).status_code == 204
        orders = market.app.running["orders"]
        orders.settings = with_settings(orders.settings, hold_seconds=900)
        orders.resources = await stack.enter_async_context(open_resources(orders))
        carols = await market.reserves(carol, ticket)

        async def carol_has_it() -> bool:
            return bool((await market.ticket(ticket)).get("orderId") == carols["id"])

        await eventually(carol_has_it, "the ticket is Carol's")

        async def bobs_deadline_has_passed() -> object:
            return await market.database("orders").fetchval(
                "SELECT expires_at < instant() - interval '500 ms' FROM orders WHERE id = $1", bobs["id"]
            )

        await eventually(bobs_deadline_has_passed, "Bob's deadline passes")
        await market.settled()
        assert await carol_has_it()
        assert (await carol.get(f"/api/orders/{carols['id']}")).json()["status"] == "created"


async def test_g18_an_unpaid_order_expires_and_frees_its_ticket(world: World) -> None:
    async with AsyncExitStack() as stack:
        market, (alice, bob, _) = await _market(stack, world, hold_seconds=1)
        ticket = await market.lists(alice)
        order = await market.locked(bob, ticket)
        expired = await market.order_becomes(bob, order, "cancelled")
        assert expired["cancelReason"] == "expired"
        await market.ticket_becomes(ticket, "available")
        lateness = await market.database("orders").fetchval(
            "SELECT extract(epoch FROM recorded_at) FROM outbox WHERE type = 'OrderCancelled'"
        ) - await market.database("orders").fetchval("SELECT extract(epoch FROM expires_at) FROM orders")
        print(f"\nexpired {float(lateness) * 1000:.0f} ms after the deadline")
        assert lateness >= 0


@pytest.mark.parametrize("round_number", range(10))
async def test_s13_an_edit_racing_an_order_never_changes_a_locked_price(world: World, round_number: int) -> None:
    async with marketplace(*world) as market, market.person("alice") as alice, market.person("bob") as bob:
        for number in range(10):
            ticket = await market.lists(alice, price=10)

            async def edit(ticket: dict[str, Any] = ticket) -> int:
                await asyncio.sleep(random.random() / 100)
                return (
                    await alice.put(f"/api/tickets/{ticket['id']}", json={"title": "Dearer", "price": 20})
                ).status_code

            edited, order = await asyncio.gather(edit(), market.reserves(bob, ticket))
            assert edited in {200, 400}

            async def settled(ticket: dict[str, Any] = ticket, order: dict[str, Any] = order) -> dict[str, Any] | None:
                shown = await market.ticket(ticket)
                mine = (await bob.get(f"/api/orders/{order['id']}")).json()
                is_locked = shown.get("orderId") == order["id"] and mine["status"] == "created"
                return {"ticket": shown, "order": mine} if is_locked or mine["status"] == "cancelled" else None

            found = await eventually(settled, f"round {round_number}.{number} settles")
            if found["order"]["status"] == "cancelled":
                assert found["order"]["cancelReason"] == "ticket_changed"
            else:
                assert found["ticket"]["price"] == found["order"]["ticket"]["price"]


async def test_s13_a_buyer_gets_the_ticket_that_was_ordered_or_none(world: World) -> None:
    """Every edit keeps the price: a lock that compared prices only would be given."""
    listing: dict[str, Any] = {
        "title": "Fado night", "price": 10, "faceValue": 8, "venue": "Clube de Fado", "section": "A", "row": "1",
        "seat": "1", "eventDate": "2027-05-01T19:30:00Z", "note": "Aisle",
    }  # fmt: skip
    others: list[dict[str, Any]] = [
        {"title": "Another night"}, {"venue": "Luso"}, {"eventDate": "2027-05-02T19:30:00Z"}, {"section": "Z"},
        {"row": "99"}, {"seat": "99"}, {"faceValue": 1}, {"note": "Restricted view"},
    ]  # fmt: skip
    async with marketplace(*world) as market, market.person("alice") as alice, market.person("bob") as bob:

        async def race(number: int) -> str:
            ticket = await market.lists(alice, **listing)
            body = {**listing, **others[number % len(others)]}
            response, order = await asyncio.gather(
                alice.put(f"/api/tickets/{ticket['id']}", json=body), market.reserves(bob, ticket)
            )
            assert response.status_code in {200, 400}

            async def outcome() -> str | None:
                shown = await market.ticket(ticket)
                made = (await bob.get(f"/api/orders/{order['id']}")).json()
                if made["status"] == "cancelled":
                    assert made["cancelReason"] == "ticket_changed"
                    return "refused"
                if shown.get("orderId") != order["id"]:
                    return None
                kept = {name: value for name, value in made["ticket"].items() if name != "version"}
                assert kept == {name: shown.get(name) for name in kept}
                assert kept.keys() >= listing.keys()
                return "locked"

            found: str = await eventually(outcome, f"race {number} settles")
            return found

        outcomes = [await race(number) for number in range(40)]
        assert "refused" in outcomes


async def test_s14_without_expiration_a_new_buyer_is_not_blocked_and_orders_end(world: World) -> None:
    async with AsyncExitStack() as stack:
        market, (alice, bob, carol) = await _market(stack, world, "auth", "tickets", "orders", hold_seconds=1)
        ticket, other = await market.lists(alice), await market.lists(alice)
        bobs = await market.locked(bob, ticket)
        forgotten = await market.locked(bob, other)

        async def carol_tries() -> Any:
            answer = await carol.post("/api/orders", json={"ticketId": ticket["id"]})
            return answer.json() if answer.status_code == 201 else None

        carols = await eventually(carol_tries, "Carol gets the ticket once Bob's time is up")
        assert (await bob.get(f"/api/orders/{bobs['id']}")).json()["status"] == "cancelled"

        async def locked_for_carol() -> bool:
            return bool((await market.ticket(ticket)).get("orderId") == carols["id"])

        await eventually(locked_for_carol, "the lock moves to Carol")
        await market.order_becomes(bob, forgotten, "cancelled", 20)
        await market.ticket_becomes(other, "available")


def test_s14_timers_wiped_while_expiration_is_dead_do_no_harm(folder: Path) -> None:
    with ExitStack() as stack:
        up = stack.enter_context(running_up(folder, "--processes", ADMITONE_ORDER_WINDOW_SECONDS="4"))
        alice, bob = stack.enter_context(up.person("alice")), stack.enter_context(up.person("bob"))
        ticket = alice.post("/api/tickets", json={"title": "Fado night", "price": 19.99}).json()
        order = _reserved(bob, ticket)
        engines.wait_until(lambda: asyncio.run(_timers(folder, "SELECT count(*) FROM deadline")), "the timer is set")
        os.kill(up.pid("processes/expiration"), signal.SIGSTOP)  # alive for its supervisor, dead for everybody
        expiration = up.pid("processes/expiration")
        try:
            asyncio.run(_timers(folder, "DELETE FROM deadline"))
            engines.wait_until(
                lambda: bob.get(f"/api/orders/{order['id']}").json()["status"] == "cancelled",
                "the order ends without its signal",
                30,
            )
            engines.wait_until(
                lambda: bob.get(f"/api/tickets/{ticket['id']}").json()["status"] == "available",
                "the ticket is free",
            )
        finally:
            os.kill(expiration, signal.SIGKILL)


async def _timers(folder: Path, sql: str) -> object:
    settings = running_settings(folder)
    assert settings is not None
    connection = await asyncpg.connect(settings.migrator_urls["expiration"])
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_s15_a_poison_message_stops_nothing_and_can_be_driven_again(world: World) -> None:
    async with marketplace(*world) as market, market.person("alice") as alice, market.person("bob") as bob:
        await market.locked(bob, await market.lists(alice))  # so the stream of orders is there
        bus = Bus("admin")
        bus.start(market.nats.url("admin"))
        await bus.ready()
        stored = await bus._client.request("events.orders.OrderCreated", b'{"id": "no envelope"}')
        assert json.loads(stored.data)["stream"] == "orders"
        await bus.close()
        await market.locked(bob, await market.lists(alice, title="After the poison"))

        async def letters() -> list[Any]:
            rows: list[Any] = await market.database("tickets").fetch(
                "SELECT * FROM dead_letter WHERE given_up_at IS NOT NULL"
            )
            return rows

        [letter] = await eventually(letters, "the message is a dead letter")
        assert letter["error"]
        assert letter["message"] == b'{"id": "no envelope"}'


async def test_s16_a_signed_out_session_is_refused_by_every_service_within_a_second(world: World) -> None:
    async with marketplace(*world) as market, market.app.client() as bob:
        await sign_up(bob, "bob@example.com")
        token = bob.cookies["session"]
        assert (await bob.get("/api/orders")).status_code == 200
        await bob.post("/api/users/signout", json={})
        began = time.monotonic()
        async with market.app.client() as thief:
            thief.cookies.set("session", token)

            async def refused_everywhere() -> bool:
                statuses = {(await thief.get(path)).status_code for path in ("/api/orders", "/api/tickets/mine")}
                return statuses == {401}

            await eventually(refused_everywhere, "the session is refused")
            print(f"\nrefused everywhere after {(time.monotonic() - began) * 1000:.0f} ms")
            assert (await thief.get("/api/users/currentuser")).json() == {"currentUser": None}


async def test_s17_200_tickets_updated_twice_converge_to_price_and_version(world: World) -> None:
    async with marketplace(*world) as market, market.person("alice") as alice:
        at_once = asyncio.Semaphore(20)

        async def one(number: int) -> str:
            async with at_once:
                return await listed_and_edited_twice(number)

        async def listed_and_edited_twice(number: int) -> str:
            ticket = (await alice.post("/api/tickets", json={"title": "Fado night", "price": 10})).json()
            for price in (20 + number, 30 + number):
                answer = await alice.put(f"/api/tickets/{ticket['id']}", json={"title": "Fado night", "price": price})
                assert answer.status_code == 200
            return str(ticket["id"])

        ids = await asyncio.gather(*(one(number) for number in range(200)))
        began = time.monotonic()

        async def converged() -> bool:
            rows = await market.database("orders").fetch("SELECT id, version, price_cents FROM ticket")
            found = {str(row["id"]): (row["version"], row["price_cents"]) for row in rows}
            return found == {each: (2, (30 + number) * 100) for number, each in enumerate(ids)}

        await eventually(converged, "the replicas are at the final price", 30)
        print(f"\n200 × (create, update, update): converged {(time.monotonic() - began) * 1000:.0f} ms after the last")


async def test_g08_every_event_of_the_trade_says_what_its_contract_says(world: World) -> None:
    async with marketplace(*world) as market, market.person("alice") as alice, market.person("bob") as bob:
        ticket = await market.lists(alice, price=12.34)
        order = await market.locked(bob, ticket)
        [created] = [each for each in await published_by(market.app, "orders") if each["type"] == "OrderCreated"]
        parsed = event_types()["OrderCreated"]
        assert json.loads(json.dumps(created))["ticket"]["priceCents"] == 1234
        assert parsed is OrderCreated
        locked = [each for each in await published_by(market.app, "tickets") if each["type"] == TicketUpdated.__name__][
            -1
        ]
        assert (locked["orderId"], locked["status"], locked["priceCents"]) == (order["id"], "reserved", 1234)
