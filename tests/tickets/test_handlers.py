"""What tickets does when it hears of orders: once, late, twice, or in any sequence."""

import itertools
import json
import random
from typing import Any
from uuid import UUID

import httpx
import pytest

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.database.pool import Database
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import Event, subject_of
from admitone.kernel.money import decimal_of
from admitone.kernel.runner import App
from admitone.tickets import store
from admitone.tickets.model import ANY_VERSION, Ticket, TicketListing
from admitone.tickets.service import SERVICE as TICKETS
from tests import engines
from tests.support import StartNats, app_of, bus_user, eventually, settings_for, signed_in, told_by
from tests.tickets.support import (
    cancelled,
    completed,
    database_of,
    hear,
    list_ticket,
    on_the_bus,
    order_of,
    show,
    tickets_database,
)


async def offer(database: Database) -> dict[str, Any]:
    listing = TicketListing(title="Fado night", price=decimal_of(1999))
    async with database.transaction() as tx:
        ticket = Ticket.listed(new_id(), new_id(), listing, "usd")
        found: dict[str, Any] = json.loads(await store.list_ticket(tx, ticket, listing))
        return found


async def state(database: Database, ticket: dict[str, Any]) -> tuple[str, str | None, int]:
    found = await store.shown_ticket(database, UUID(ticket["id"]))
    assert found is not None
    shown = json.loads(found[1])
    assert shown["version"] == found[0]
    return shown["status"], shown.get("orderId"), shown["version"]


async def told(database: Database) -> list[tuple[str, dict[str, Any]]]:
    """What was told after the ticket was listed."""
    rows = await database.fetch("SELECT type, data FROM outbox WHERE type <> 'TicketCreated' ORDER BY position")
    return [(row["type"], json.loads(row["data"])) for row in rows]


async def hear_until_settled(database: Database, *events: Event) -> None:
    """Deliver events one by one, and again those that wait for others, as the bus does."""
    waiting = [on_the_bus(event) for event in events]
    for _ in range(len(events) + 1):
        waiting = [message for message in waiting if await hear(database, message)]
    assert waiting == []


async def edit(database: Database, ticket: dict[str, Any], price_cents: int) -> None:
    listing = TicketListing(title="Fado night", price=decimal_of(price_cents))
    async with database.transaction() as tx:
        found = await store.ticket_for_change(tx, UUID(ticket["id"]))
        assert found is not None
        await store.save_edit(tx, found.edited(found.user_id, listing, ANY_VERSION), listing)


# A lock


async def test_t20_order_created_sets_the_order_id(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    order = order_of(ticket)
    await hear(database_of(app), order)
    assert await show(alice, ticket["id"]) == {**ticket, "status": "reserved", "orderId": str(order.id), "version": 1}


async def test_t22_a_lock_tells_ticket_updated_with_the_order_id(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    order = order_of(ticket)
    await hear(database_of(app), order)
    assert await told_by(app, "tickets", "TicketUpdated") == [
        {
            "type": "TicketUpdated",
            "id": ticket["id"],
            "version": 1,
            "title": "Fado night",
            "priceCents": 1999,
            "currency": "usd",
            "userId": ticket["userId"],
            "status": "reserved",
            "orderId": str(order.id),
        }
    ]


async def test_t23_order_cancelled_clears_the_order_id_and_tells(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    order = order_of(ticket)
    await hear(database_of(app), order, cancelled(order))
    assert await show(alice, ticket["id"]) == {**ticket, "version": 2}
    last = (await told_by(app, "tickets"))[-1]
    assert (last["status"], last["orderId"], last["version"]) == ("available", None, 2)


async def test_t21_t23_events_from_the_bus_are_acknowledged(
    databases: engines.Databases, start_nats: StartNats
) -> None:
    """Orders tells on the real bus; afterwards its consumer has nothing left to deliver or to wait for."""
    nats = start_nats(bus_user(AUTH), bus_user(TICKETS))
    orders = Bus("orders")
    orders.start(nats.url("admin"))
    await orders.ready()
    await orders.ensure_stream()
    settings = await settings_for(databases, start_nats, AUTH, TICKETS, nats=nats)
    async with app_of([AUTH, TICKETS], settings) as app, signed_in(app, "alice") as alice:
        bought, released = await list_ticket(alice), await list_ticket(alice)
        order, other = order_of(bought), order_of(released)
        for event in (order, other, cancelled(other), completed(order)):
            await orders.publish(subject_of(type(event)), on_the_bus(event), str(new_id()))

        async def is_settled() -> bool:
            states = [(await show(alice, each["id"]))["status"] for each in (bought, released)]
            return states == ["sold", "available"]

        async def is_acknowledged() -> bool:
            state = await orders.request("$JS.API.CONSUMER.INFO.orders.tickets", {})
            waiting, last = (state["num_ack_pending"], state["num_pending"]), state["ack_floor"]["stream_seq"]
            return (waiting, last) == ((0, 0), 4)

        await eventually(is_settled, "the tickets settled")
        await eventually(is_acknowledged, "every event acknowledged")
    await orders.close()


async def test_a_completed_order_makes_the_ticket_sold(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await offer(database)
        order = order_of(ticket)
        assert await hear(database, order, completed(order)) == []
        assert await state(database, ticket) == ("sold", str(order.id), 2)
        assert [(kind, each["status"], each["version"]) for kind, each in await told(database)] == [
            ("TicketUpdated", "reserved", 1),
            ("TicketUpdated", "sold", 2),
        ]


async def test_an_order_of_an_older_version_at_the_same_price_locks(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await offer(database)
        await edit(database, ticket, 2500)
        await edit(database, ticket, 1999)
        order = order_of(ticket)
        await hear(database, order)
        assert await state(database, ticket) == ("reserved", str(order.id), 3)


@pytest.mark.parametrize("ordered", [{"price_cents": 1998}, {"price_cents": 2000}, {"currency": "eur"}])
async def test_s13_an_order_at_another_price_is_refused_the_lock(
    databases: engines.Databases, ordered: dict[str, Any]
) -> None:
    async with tickets_database(databases) as database:
        ticket = await offer(database)
        order = order_of(ticket, **ordered)
        assert await hear(database, order) == []
        assert await state(database, ticket) == ("available", None, 0)
        assert await told(database) == [("TicketLockRefused", {"ticketId": ticket["id"], "orderId": str(order.id)})]
        # orders then cancels that order, which frees nothing here.
        assert await hear(database, cancelled(order, "ticket_changed")) == []
        assert await state(database, ticket) == ("available", None, 0)


async def test_an_order_of_a_ticket_nobody_knows_is_refused_the_lock(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        order = order_of({"id": str(new_id()), "version": 0, "price": 10, "currency": "usd"})
        assert await hear(database, order, cancelled(order)) == []
        assert [kind for kind, _ in await told(database)] == ["TicketLockRefused"]


async def test_an_order_of_a_sold_ticket_is_refused_the_lock(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await offer(database)
        bob, carol = order_of(ticket), order_of(ticket)
        await hear(database, bob, completed(bob))
        assert await hear(database, carol) == []
        assert await state(database, ticket) == ("sold", str(bob.id), 2)
        assert (await told(database))[-1] == (
            "TicketLockRefused",
            {"ticketId": ticket["id"], "orderId": str(carol.id)},
        )


# One order after another


async def test_a_second_order_waits_for_the_first_ones_end(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await offer(database)
        bob, carol = order_of(ticket), order_of(ticket)
        await hear(database, bob)
        [gap] = await hear(database, carol)
        assert (gap.producer, gap.aggregate, gap.have_version) == ("orders", bob.id, 0)
        assert await state(database, ticket) == ("reserved", str(bob.id), 1)
        assert await hear(database, cancelled(bob), carol) == []
        assert await state(database, ticket) == ("reserved", str(carol.id), 3)


async def test_s06_the_end_of_an_order_leaves_the_next_ones_lock_alone(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await offer(database)
        alice, bob = order_of(ticket), order_of(ticket)
        end = on_the_bus(cancelled(alice))
        await hear(database, alice, end, bob)
        for message in (end, on_the_bus(cancelled(alice)), on_the_bus(alice)):
            assert await hear(database, message) == []
        assert await state(database, ticket) == ("reserved", str(bob.id), 3)


async def test_an_order_heard_of_after_its_end_locks_nothing(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await offer(database)
        order = order_of(ticket)
        assert await hear(database, cancelled(order)) == []
        assert await hear(database, order) == []
        assert await state(database, ticket) == ("available", None, 0)
        assert await told(database) == []


async def test_a_sale_waits_for_its_lock(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await offer(database)
        order = order_of(ticket)
        end = on_the_bus(completed(order))
        [gap] = await hear(database, end)
        assert (gap.producer, gap.aggregate, gap.have_version) == ("orders", order.id, -1)
        assert await hear(database, order, end) == []
        assert await state(database, ticket) == ("sold", str(order.id), 2)


async def test_an_order_that_was_refused_its_lock_buys_nothing(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await offer(database)
        order = order_of(ticket, price_cents=1)
        assert await hear(database, order, completed(order)) == []
        assert await state(database, ticket) == ("available", None, 0)


# Redelivery, duplication, reordering


async def test_s03_every_event_delivered_five_times_has_one_effect(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket, other = await offer(database), await offer(database)
        first, second, third = order_of(ticket), order_of(ticket), order_of(other)
        story = [first, cancelled(first), second, completed(second), third, cancelled(third)]
        messages = [on_the_bus(event) for event in story]
        for message in messages:
            for _ in range(5):
                assert await hear(database, message) == []
        # The same facts as other messages: what a producer restored from a backup might tell again.
        for _ in range(5):
            assert await hear(database, *messages, *story) == []
        assert await state(database, ticket) == ("sold", str(second.id), 4)
        assert await state(database, other) == ("available", None, 2)
        assert [each["version"] for _, each in await told(database)] == [1, 2, 3, 4, 1, 2]


def stories() -> list[tuple[str, ...]]:
    """Every sequence of the events of two orders, the first cancelled and the second complete."""
    return list(itertools.permutations(("first", "cancelled", "second", "completed")))


async def test_the_events_of_two_orders_settle_in_every_sequence(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        for story in stories():
            ticket = await offer(database)
            first, second = order_of(ticket), order_of(ticket)
            events: dict[str, Event] = {
                "first": first,
                "cancelled": cancelled(first),
                "second": second,
                "completed": completed(second),
            }
            await hear_until_settled(database, *(events[name] for name in story))
            status, order_id, _ = await state(database, ticket)
            assert (status, order_id) == ("sold", str(second.id)), story


async def test_three_orders_that_all_end_leave_the_ticket_free_in_every_sequence(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        for places in itertools.islice(itertools.permutations(range(6)), 0, None, 11):
            ticket = await offer(database)
            orders = [order_of(ticket) for _ in range(3)]
            story: list[Event] = [*orders, *(cancelled(order) for order in orders)]
            await hear_until_settled(database, *(story[place] for place in places))
            assert (await state(database, ticket))[:2] == ("available", None), places


@pytest.mark.parametrize("seed", range(8))
async def test_however_events_are_bundled_every_ticket_ends_with_the_same_holder(
    databases: engines.Databases, seed: int
) -> None:
    """Most events are applied many at a time; what came of each alone must come of them together."""
    chance = random.Random(seed)
    async with tickets_database(databases) as database:
        history: list[list[Event]] = []
        holders: dict[str, tuple[str, str | None]] = {}
        for _ in range(6):
            ticket = await offer(database)
            one: list[Event] = []
            holders[ticket["id"]] = ("available", None)
            for _ in range(chance.randint(1, 5)):
                order = order_of(ticket)
                one.append(order)
                what = chance.random()
                if what < 0.7:
                    one.append(cancelled(order))
                    continue
                holders[ticket["id"]] = ("sold" if what < 0.9 else "reserved", str(order.id))
                one += [completed(order)] if what < 0.9 else []
                break
            history.append(one)
        stream: list[Event] = []
        while left := [each for each in history if each]:
            stream.append(chance.choice(left).pop(0))
        bundles: list[list[bytes]] = []
        while stream:
            size = chance.randint(1, 12)
            bundles.append([on_the_bus(event) for event in stream[:size]])
            stream = stream[size:]
        for _ in range(len(bundles) + 1):
            bundles = [bundle for bundle in bundles if await hear(database, *bundle)]
        assert bundles == []
        for ticket_id, holder in holders.items():
            assert (await state(database, {"id": ticket_id}))[:2] == holder
