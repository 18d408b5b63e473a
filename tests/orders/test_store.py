"""Reserving is one statement: who gets the ticket, and what is published about it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from admitone.events import Offer, OrderCancelled, OrderCreated
from admitone.kernel.database.batching import Batcher
from admitone.kernel.http.operations import CREATED, Response
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.event import Event
from admitone.orders import store
from admitone.orders.store import Reservation, ReservationResult, reserve_tickets
from admitone.orders.views import OrderView, view
from tests import engines
from tests.orders.support import changed, consume, listed, orders_database, published, reserve


async def test_a_free_ticket_is_held_at_its_price(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket, bob = listed(price_cents=1050), new_id()
        await consume(database, ticket)
        result = await reserve(database, ticket.id, bob)
        assert result.outcome == "held"
        assert result.body is not None
        order = msgspec.json.decode(result.body, type=OrderView)
        assert (order.user_id, order.status, order.version) == (bob, "created", 0)
        assert '"price":10.50' in result.body
        [event] = await published(database)
        assert isinstance(event, OrderCreated)
        assert (event.id, event.user_id, event.status, event.version) == (order.id, bob, "created", 0)
        assert (event.ticket.id, event.ticket.version, event.ticket.price_cents) == (ticket.id, 0, 1050)
        assert event.expires_at.isoformat(timespec="milliseconds").replace("+00:00", "Z") == order.expires_at


TITLES = ["Nina Simone, row 4", 'A "quoted" \\ slashed / title', "Café Luso 🎟️ <b>&amp;</b>", "x" * 200]


PLACE: dict[str, Any] = {
    "event_date": datetime(2027, 5, 1, 19, 30, tzinfo=UTC),
    "venue": "Clube de Fado",
    "section": "A",
    "row": "4",
    "seat": "12",
    "note": "Two seats\nside by side",
    "revision": 3,
}


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("place", [{}, PLACE], ids=["anywhere", "a seat"])
@pytest.mark.parametrize(
    ("price_cents", "face_value_cents"), [(50, None), (1050, 0), (1999, 5800), (99_999_999, 99_999_999)]
)
async def test_the_statement_that_reserves_agrees_with_the_model(
    databases: engines.Databases, title: str, price_cents: int, face_value_cents: int | None, place: dict[str, Any]
) -> None:
    """The statement repeats rules of the model: the response, the events, and when a hold has ended."""
    async with orders_database(databases) as database:
        ticket = listed(title=title, price_cents=price_cents, face_value_cents=face_value_cents, **place)
        bob, carol = new_id(), new_id()
        await consume(database, ticket)
        await reserve(database, ticket.id, bob, hold_seconds=0)
        result = await reserve(database, ticket.id, carol)
        bobs_event, cancelled_event, carols_event = await database.fetch("SELECT * FROM outbox ORDER BY position")

        found = await store.order(database, carols_event["aggregate"])
        assert found is not None
        order, _ = found
        assert order.buyer_id == carol
        assert result.body is not None
        assert result.body.encode() == Response(CREATED, view(order, order.created_at)).encoded()
        assert carols_event["version"] == order.version
        assert_encodes(carols_event["data"], order.event())

        found = await store.order(database, bobs_event["aggregate"])
        assert found is not None
        expired, now = found
        as_created = msgspec.structs.replace(expired, version=0, status="created", cancel_reason=None)
        assert_encodes(bobs_event["data"], as_created.event())
        assert as_created.is_overdue(now)
        assert as_created.cancelled("expired") == expired
        assert cancelled_event["version"] == expired.version
        assert_encodes(cancelled_event["data"], expired.event())


def assert_encodes(data: str, event: Event) -> None:
    """Assert that JSON has the fields of an event in their order, and its values; nulls of the ticket may be absent."""
    assert msgspec.json.decode(data, type=type(event)) == event
    written, expected = msgspec.json.decode(data), msgspec.json.decode(event.encode())
    assert list(written) == list(expected)
    stated = [name for name, value in expected.get("ticket", {}).items() if value is not None]
    assert list(written.get("ticket", {})) == stated


async def test_an_unknown_or_an_own_ticket_is_not_reserved(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        alice = new_id()
        ticket = listed(seller=alice)
        await consume(database, ticket)
        assert (await reserve(database, new_id(), alice)).outcome == "no such ticket"
        assert (await reserve(database, ticket.id, alice)).outcome == "own ticket"
        assert await published(database) == []


async def test_the_next_buyer_ends_an_overdue_hold(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket, bob, carol = listed(), new_id(), new_id()
        await consume(database, ticket)
        first = await reserve(database, ticket.id, bob, hold_seconds=0)
        assert first.outcome == "held"
        assert (await reserve(database, ticket.id, carol)).outcome == "held"
        assert (await reserve(database, ticket.id, bob)).outcome == "already reserved"
        created, cancelled, next_created = await published(database)
        assert isinstance(created, OrderCreated)
        assert isinstance(cancelled, OrderCancelled)
        assert (cancelled.id, cancelled.version, cancelled.reason) == (created.id, 1, "expired")
        assert isinstance(next_created, OrderCreated)
        assert next_created.user_id == carol


async def test_a_hold_is_not_ended_before_its_deadline(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await consume(database, ticket)
        await reserve(database, ticket.id, new_id(), hold_seconds=1)
        assert (await reserve(database, ticket.id, new_id())).outcome == "already reserved"


async def test_s05_one_statement_with_many_buyers_of_one_ticket_has_one_winner(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await consume(database, ticket)
        reservations = [Reservation(ticket.id, new_id(), None) for _ in range(50)]
        outcomes = [each.outcome for each in await reserve_tickets(database, reservations, 900, 201)]
        assert sorted(outcomes) == ["already reserved"] * 49 + ["held"]
        assert len(await published(database)) == 1


async def test_g14_concurrent_statements_hold_each_ticket_once(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        tickets = [listed() for _ in range(30)]
        await consume(database, *tickets)

        async def buyer(forwards: bool) -> list[str]:
            some = tickets if forwards else tickets[::-1]
            reservations = [Reservation(each.id, new_id(), None) for each in some]
            return [each.outcome for each in await reserve_tickets(database, reservations, 900, 201)]

        outcomes = await asyncio.gather(*(buyer(number % 2 == 0) for number in range(20)))
        assert sum(each.count("held") for each in outcomes) == len(tickets)
        held = await database.fetchval("SELECT count(DISTINCT ticket_id) FROM orders WHERE status = 'created'")
        assert held == len(tickets)


async def test_a_repeated_key_gets_the_same_response_and_another_request_none(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket, other, bob = listed(), listed(), new_id()
        await consume(database, ticket, other)
        reservation = Reservation(ticket.id, bob, None, "key-1", b"one")
        [first] = await reserve_tickets(database, [reservation], 900, 201)
        [again] = await reserve_tickets(database, [reservation], 900, 201)
        assert (first.outcome, again.outcome) == ("held", "repeated")
        assert first.body == again.body
        [reused] = await reserve_tickets(database, [Reservation(other.id, bob, None, "key-1", b"two")], 900, 201)
        assert reused.outcome == "key reused"
        assert len(await published(database)) == 1


async def test_one_key_used_at_once_for_many_tickets_holds_one_of_them(databases: engines.Databases) -> None:
    """Concurrent statements, and concurrent reservations that share one."""
    async with orders_database(databases) as database:
        reserve_batched = Batcher[Reservation, ReservationResult](
            lambda reservations: reserve_tickets(database, reservations, 900, 201)
        )

        async def alone(reservation: Reservation) -> ReservationResult:
            [result] = await reserve_tickets(database, [reservation], 900, 201)
            return result

        for reserve in (alone, reserve_batched):
            for _ in range(5):
                tickets, bob = [listed() for _ in range(8)], new_id()
                await consume(database, *tickets)
                reservations = [Reservation(each.id, bob, None, "key-1", each.id.bytes) for each in tickets]
                results = await asyncio.gather(*map(reserve, reservations))
                assert sorted(each.outcome for each in results) == ["held"] + ["key reused"] * 7
                assert await database.fetchval("SELECT count(*) FROM orders WHERE buyer_id = $1", bob) == 1


@pytest.mark.parametrize("price_cents", [50, 1999, 99_999_999])
async def test_the_price_is_exact_in_the_response_and_the_event(databases: engines.Databases, price_cents: int) -> None:
    async with orders_database(databases) as database:
        ticket = listed(price_cents=price_cents)
        await consume(database, ticket)
        result = await reserve(database, ticket.id, new_id())
        assert result.body is not None
        assert round(msgspec.json.decode(result.body, type=OrderView).ticket.price * 100) == price_cents


async def test_s11_every_price_from_050_to_10000_is_held_and_published_exactly(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        prices = range(50, 10_001)
        tickets = {listed(price_cents=cents).id: cents for cents in prices}
        alice, bob = new_id(), new_id()
        await database.execute(
            "INSERT INTO ticket (id, version, title, price_cents, currency, seller_id, status) "
            "SELECT id, 0, 'Seat', price_cents, 'usd', $3, 'available' "
            "FROM unnest($1::uuid[], $2::int[]) AS made (id, price_cents)",
            list(tickets),
            list(tickets.values()),
            alice,
        )
        reservations = [Reservation(each, bob, None) for each in tickets]
        made = [
            one
            for at in range(0, len(reservations), 500)
            for one in await reserve_tickets(database, reservations[at : at + 500], 900, 201)
        ]
        assert len(made) == len(prices) == 9_951
        for result, cents in zip(made, tickets.values(), strict=True):
            assert result.body is not None
            assert f'"price":{cents // 100}.{cents % 100:02d},' in result.body
        events = await published(database)
        assert all(
            isinstance(each, OrderCreated) and each.ticket.price_cents == tickets[each.ticket.id] for each in events
        )
        assert len(events) == len(prices)


async def test_an_order_keeps_its_price_when_the_ticket_changes_later(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket, carol = listed(price_cents=1000), new_id()
        await consume(database, ticket)
        await reserve(database, ticket.id, new_id(), hold_seconds=0)
        await consume(database, changed(ticket, price_cents=2000))
        await reserve(database, ticket.id, carol)
        prices = {row["price_cents"] for row in await database.fetch("SELECT price_cents FROM orders")}
        assert prices == {1000, 2000}


async def test_an_order_keeps_all_it_was_made_for_when_the_ticket_changes_later(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed(face_value_cents=5800, **PLACE)
        edited = changed(ticket, title="Another night", seat="13", face_value_cents=None, note=None, revision=4)
        await consume(database, ticket)
        await reserve(database, ticket.id, new_id(), hold_seconds=0)
        await consume(database, edited)
        await reserve(database, ticket.id, new_id())
        made = [each.id for each in await published(database) if isinstance(each, OrderCreated)]
        found = [await store.order(database, each) for each in made]
        kept = [(order.offer, order.ticket_revision) for order, _ in filter(None, found)]
        assert kept == [(Offer.of(ticket), 3), (Offer.of(edited), 4)]


async def test_the_deadline_is_the_database_clock_plus_the_hold(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await consume(database, ticket)
        await reserve(database, ticket.id, new_id(), hold_seconds=60)
        row = await database.fetchrow("SELECT created_at, expires_at FROM orders")
        assert row is not None
        assert row["expires_at"] - row["created_at"] == timedelta(seconds=60)


async def test_batched_reservations_each_get_their_own_result(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        tickets = [listed() for _ in range(200)]
        await consume(database, *tickets)
        reserve_batched = Batcher[Reservation, ReservationResult](
            lambda reservations: reserve_tickets(database, reservations, 900, 201)
        )
        outcomes = await asyncio.gather(
            *(reserve_batched(Reservation(each.id, new_id(), None)) for each in tickets * 2)
        )
        assert sorted(each.outcome for each in outcomes) == ["already reserved"] * 200 + ["held"] * 200


async def test_a_failing_reservation_fails_no_other_of_its_batch(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket, long_key = listed(), "k" * 9000
        await consume(database, ticket)
        reserve_batched = Batcher[Reservation, ReservationResult](
            lambda reservations: reserve_tickets(database, reservations, 900, 201)
        )
        reservations = [
            Reservation(new_id(), new_id(), None),
            Reservation(ticket.id, new_id(), "\0 is no text for PostgreSQL", long_key, b"x"),
            Reservation(ticket.id, new_id(), None),
        ]
        # The first runs alone; the others wait for it and share a statement.
        results = await asyncio.gather(
            *(reserve_batched(each) for each in [reservations[0], reservations[0], *reservations[1:]]),
            return_exceptions=True,
        )
        assert isinstance(results[2], Exception)
        assert isinstance(results[3], ReservationResult)
        assert results[3].outcome == "held"
