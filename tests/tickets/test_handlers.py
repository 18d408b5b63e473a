"""What tickets does on events of orders: delivered once, late, twice, or in any sequence."""

import itertools
import json
import random
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.database.pool import Database
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import Event, subject_of
from admitone.kernel.runner import App
from admitone.tickets import store
from admitone.tickets.service import SERVICE as TICKETS
from admitone.tickets.views import ANY_VERSION
from tests import engines
from tests.inbox import message_of, rebuild
from tests.support import StartNats, app_of, bus_user, eventually, published_by, settings_for, signed_in
from tests.tickets.support import (
    cancelled,
    completed,
    consume,
    database_of,
    insert,
    list_ticket,
    listing_of,
    order_of,
    show,
    tickets_database,
)


async def list_one(database: Database) -> dict[str, Any]:
    return await insert(database, listing_of())


async def state(database: Database, ticket: dict[str, Any]) -> tuple[str, str | None, int]:
    found = await store.shown_ticket(database, UUID(ticket["id"]))
    assert found is not None
    shown = json.loads(found[1])
    assert shown["version"] == found[0]
    return shown["status"], shown.get("orderId"), shown["version"]


async def published(database: Database) -> list[tuple[str, dict[str, Any]]]:
    """What was published after the ticket was listed."""
    rows = await database.fetch("SELECT type, data FROM outbox WHERE type <> 'TicketCreated' ORDER BY position")
    return [(row["type"], json.loads(row["data"])) for row in rows]


async def consume_until_settled(database: Database, *events: Event) -> None:
    """Deliver events one by one, and those that must wait for others again, as the bus does."""
    waiting = [message_of(event) for event in events]
    for _ in range(len(events) + 1):
        waiting = [message for message in waiting if await consume(database, message)]
    assert waiting == []


async def edit(database: Database, ticket: dict[str, Any], **fields: Any) -> None:
    ticket_id, listing = UUID(ticket["id"]), msgspec.structs.replace(listing_of(), **fields)
    async with database.transaction() as tx:
        found = (await store.tickets_for_change(tx, [ticket_id]))[ticket_id]
        edited = found.edited(found.seller_id, listing.offer("usd"), ANY_VERSION)
        await store.save_edit(tx, edited)


# Locks


async def test_t20_order_created_sets_the_order_id(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    order = order_of(ticket)
    await consume(database_of(app), order)
    assert await show(alice, ticket["id"]) == {**ticket, "status": "reserved", "orderId": str(order.id), "version": 1}


async def test_t22_a_lock_publishes_ticket_updated_with_the_order_id(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    order = order_of(ticket)
    await consume(database_of(app), order)
    assert await published_by(app, "tickets", "TicketUpdated") == [
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
            "revision": 0,
            "faceValueCents": None,
            "eventDate": None,
            "venue": None,
            "section": None,
            "row": None,
            "seat": None,
            "note": None,
            "snapshot": False,
        }
    ]


async def test_every_event_of_an_order_carries_the_face_value(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice, faceValue=58)
    first, second = order_of(ticket), order_of(ticket)
    await consume(database_of(app), first, cancelled(first), second, completed(second))
    events = await published_by(app, "tickets")
    assert [each["status"] for each in events] == ["available", "reserved", "available", "reserved", "sold"]
    assert {each["faceValueCents"] for each in events} == {5800}


async def test_t23_order_cancelled_clears_the_order_id_and_publishes(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    order = order_of(ticket)
    await consume(database_of(app), order, cancelled(order))
    assert await show(alice, ticket["id"]) == {**ticket, "version": 2}
    last = (await published_by(app, "tickets"))[-1]
    assert (last["status"], last["orderId"], last["version"]) == ("available", None, 2)


async def test_t21_t23_events_from_the_bus_are_acknowledged(
    databases: engines.Databases, start_nats: StartNats
) -> None:
    """Events are published on a real bus; afterwards the consumer has nothing pending."""
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
            await orders.publish(subject_of(type(event)), message_of(event), str(new_id()))

        async def is_settled() -> bool:
            states = [(await show(alice, each["id"]))["status"] for each in (bought, released)]
            return states == ["sold", "available"]

        async def is_acknowledged() -> bool:
            consumer = await orders.jetstream.consumer_info("orders", "tickets")
            assert consumer.ack_floor is not None
            return (consumer.num_ack_pending, consumer.num_pending, consumer.ack_floor.stream_seq) == (0, 0, 4)

        await eventually(is_settled, "the tickets settled")
        await eventually(is_acknowledged, "every event acknowledged")
    await orders.close()


async def test_a_completed_order_makes_the_ticket_sold(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await list_one(database)
        order = order_of(ticket)
        assert await consume(database, order, completed(order)) == []
        assert await state(database, ticket) == ("sold", str(order.id), 2)
        assert [(kind, each["status"], each["version"]) for kind, each in await published(database)] == [
            ("TicketUpdated", "reserved", 1),
            ("TicketUpdated", "sold", 2),
        ]


async def test_an_order_of_an_older_version_that_was_only_held_meanwhile_locks(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await list_one(database)
        bob, carol = order_of(ticket), order_of(ticket)
        await consume(database, bob, cancelled(bob), carol)
        assert await state(database, ticket) == ("reserved", str(carol.id), 3)


@pytest.mark.parametrize(
    "edits",
    [
        [{"title": "Another night"}],
        [{"venue": "Luso"}],
        [{"section": "Z"}],
        [{"row": "99"}],
        [{"seat": "1"}],
        [{"event_date": datetime(2027, 5, 1, tzinfo=UTC)}],
        [{"note": "Restricted view"}],
        [{"face_value": Decimal(5)}],
        [{"price": Decimal("25.00")}, {"price": Decimal("19.99")}],
    ],
)
async def test_an_order_of_a_ticket_that_was_edited_since_is_refused_the_lock(
    databases: engines.Databases, edits: list[dict[str, Any]]
) -> None:
    async with tickets_database(databases) as database:
        ticket = await list_one(database)
        for fields in edits:
            await edit(database, ticket, **fields)
        order = order_of(ticket)
        assert await consume(database, order) == []
        assert await state(database, ticket) == ("available", None, len(edits))
        assert await published(database) == [
            ("TicketLockRefused", {"ticketId": ticket["id"], "orderId": str(order.id)})
        ]


@pytest.mark.parametrize(
    "ordered", [{"price_cents": 1998}, {"price_cents": 2000}, {"currency": "eur"}, {"revision": 1}]
)
async def test_s13_an_order_at_another_price_is_refused_the_lock(
    databases: engines.Databases, ordered: dict[str, Any]
) -> None:
    async with tickets_database(databases) as database:
        ticket = await list_one(database)
        order = order_of(ticket, **ordered)
        assert await consume(database, order) == []
        assert await state(database, ticket) == ("available", None, 0)
        assert await published(database) == [
            ("TicketLockRefused", {"ticketId": ticket["id"], "orderId": str(order.id)})
        ]
        # orders then cancels that order, which releases nothing here.
        assert await consume(database, cancelled(order, "ticket_changed")) == []
        assert await state(database, ticket) == ("available", None, 0)


async def test_an_order_of_an_unknown_ticket_is_refused_the_lock(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        order = order_of({"id": str(new_id()), "version": 0, "price": 10, "currency": "usd"})
        assert await consume(database, order, cancelled(order)) == []
        assert [kind for kind, _ in await published(database)] == ["TicketLockRefused"]


async def test_an_order_of_a_sold_ticket_is_refused_the_lock(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await list_one(database)
        bob, carol = order_of(ticket), order_of(ticket)
        await consume(database, bob, completed(bob))
        assert await consume(database, carol) == []
        assert await state(database, ticket) == ("sold", str(bob.id), 2)
        assert (await published(database))[-1] == (
            "TicketLockRefused",
            {"ticketId": ticket["id"], "orderId": str(carol.id)},
        )


# One order after another


async def test_a_second_order_waits_for_the_end_of_the_first(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await list_one(database)
        bob, carol = order_of(ticket), order_of(ticket)
        await consume(database, bob)
        [gap] = await consume(database, carol)
        assert (gap.producer, gap.aggregate, gap.have_version) == ("orders", bob.id, 0)
        assert await state(database, ticket) == ("reserved", str(bob.id), 1)
        assert await consume(database, cancelled(bob), carol) == []
        assert await state(database, ticket) == ("reserved", str(carol.id), 3)


async def test_s06_the_end_of_an_order_does_not_release_the_next_lock(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await list_one(database)
        alice, bob = order_of(ticket), order_of(ticket)
        end = message_of(cancelled(alice))
        await consume(database, alice, end, bob)
        for message in (end, message_of(cancelled(alice)), message_of(alice)):
            assert await consume(database, message) == []
        assert await state(database, ticket) == ("reserved", str(bob.id), 3)


async def test_an_order_that_arrives_after_its_end_locks_nothing(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await list_one(database)
        order = order_of(ticket)
        assert await consume(database, cancelled(order)) == []
        assert await consume(database, order) == []
        assert await state(database, ticket) == ("available", None, 0)
        assert await published(database) == []


async def test_a_sale_waits_for_its_lock(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await list_one(database)
        order = order_of(ticket)
        end = message_of(completed(order))
        [gap] = await consume(database, end)
        assert (gap.producer, gap.aggregate, gap.have_version) == ("orders", order.id, -1)
        assert await consume(database, order, end) == []
        assert await state(database, ticket) == ("sold", str(order.id), 2)


async def test_an_order_that_was_refused_its_lock_buys_nothing(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await list_one(database)
        order = order_of(ticket, price_cents=1)
        assert await consume(database, order, completed(order)) == []
        assert await state(database, ticket) == ("available", None, 0)


# Redelivery, duplication, reordering


async def test_s03_every_event_delivered_five_times_has_one_effect(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket, other = await list_one(database), await list_one(database)
        first, second, third = order_of(ticket), order_of(ticket), order_of(other)
        story = [first, cancelled(first), second, completed(second), third, cancelled(third)]
        messages = [message_of(event) for event in story]
        for message in messages:
            for _ in range(5):
                assert await consume(database, message) == []
        # The same events with other ids: a producer restored from a backup may publish them again.
        for _ in range(5):
            assert await consume(database, *messages, *story) == []
        assert await state(database, ticket) == ("sold", str(second.id), 4)
        assert await state(database, other) == ("available", None, 2)
        assert [each["version"] for _, each in await published(database)] == [1, 2, 3, 4, 1, 2]


def stories() -> list[tuple[str, ...]]:
    """Every sequence of the events of two orders, the first cancelled and the second complete."""
    return list(itertools.permutations(("first", "cancelled", "second", "completed")))


async def test_the_events_of_two_orders_settle_in_every_sequence(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        for story in stories():
            ticket = await list_one(database)
            first, second = order_of(ticket), order_of(ticket)
            events: dict[str, Event] = {
                "first": first,
                "cancelled": cancelled(first),
                "second": second,
                "completed": completed(second),
            }
            await consume_until_settled(database, *(events[name] for name in story))
            status, order_id, _ = await state(database, ticket)
            assert (status, order_id) == ("sold", str(second.id)), story


async def test_three_orders_that_all_end_leave_the_ticket_free_in_every_sequence(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        for places in itertools.islice(itertools.permutations(range(6)), 0, None, 11):
            ticket = await list_one(database)
            orders = [order_of(ticket) for _ in range(3)]
            story: list[Event] = [*orders, *(cancelled(order) for order in orders)]
            await consume_until_settled(database, *(story[place] for place in places))
            assert (await state(database, ticket))[:2] == ("available", None), places


@pytest.mark.parametrize("seed", range(8))
async def test_every_division_into_batches_leaves_the_same_holders(databases: engines.Databases, seed: int) -> None:
    """Events in batches must have the same effect as one by one."""
    chance = random.Random(seed)
    async with tickets_database(databases) as database:
        history: list[list[Event]] = []
        holders: dict[str, tuple[str, str | None]] = {}
        for _ in range(6):
            ticket = await list_one(database)
            own: list[Event] = []
            holders[ticket["id"]] = ("available", None)
            for _ in range(chance.randint(1, 5)):
                order = order_of(ticket)
                own.append(order)
                what = chance.random()
                if what < 0.7:
                    own.append(cancelled(order))
                    continue
                holders[ticket["id"]] = ("sold" if what < 0.9 else "reserved", str(order.id))
                own += [completed(order)] if what < 0.9 else []
                break
            history.append(own)
        stream: list[Event] = []
        while left := [each for each in history if each]:
            stream.append(chance.choice(left).pop(0))
        batches: list[list[bytes]] = []
        while stream:
            size = chance.randint(1, 12)
            batches.append([message_of(event) for event in stream[:size]])
            stream = stream[size:]
        for _ in range(len(batches) + 1):
            batches = [batch for batch in batches if await consume(database, *batch)]
        assert batches == []
        for ticket_id, holder in holders.items():
            assert (await state(database, {"id": ticket_id}))[:2] == holder


async def test_tickets_are_rebuilt_from_their_events(databases: engines.Databases) -> None:
    async with tickets_database(databases) as source, tickets_database(databases) as restored:
        await list_one(source)
        edited, held, released, sold, refused = [await list_one(source) for _ in range(5)]
        async with source.transaction() as tx:
            [ticket] = (await store.tickets_for_change(tx, [UUID(edited["id"])])).values()
            changed = ticket.edited(ticket.seller_id, listing_of(2500).offer("usd"), ANY_VERSION)
            await store.save_edit(tx, changed)
            tx.publish(changed.updated_event())
        orders = [order_of(each) for each in (held, released, sold)]
        late = order_of(refused, revision=1)
        events = [*orders, cancelled(orders[1]), completed(orders[2]), late, cancelled(late)]
        await consume(source, *events)

        await rebuild(TICKETS, source, restored, times=2)

        every = "SELECT * FROM ticket ORDER BY id"
        assert await restored.fetch(every) == await source.fetch(every)
        assert await published(restored) == []
        await consume_until_settled(restored, *events)
        assert await published(restored) == []
        assert await restored.fetch(every) == await source.fetch(every)
        versions = "SELECT * FROM aggregate_version ORDER BY aggregate"
        assert await restored.fetch(versions) == await source.fetch(versions)


async def test_the_order_that_holds_the_ticket_is_known_whenever_its_beginning_arrives(
    databases: engines.Databases,
) -> None:
    """A refusal would cancel the order, which may be paid for."""
    async with tickets_database(databases) as database:
        ticket = await list_one(database)
        order = order_of(ticket)
        await consume(database, order)
        before = await published(database)
        await database.execute("UPDATE aggregate_version SET aggregate = $1", new_id())
        await consume(database, order)
        assert await published(database) == before
        await consume(database, completed(order))
        assert (await state(database, ticket))[0] == "sold"
