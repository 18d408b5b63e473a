"""Reserving is one statement: who gets the ticket, and what is told about it."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from admitone.events import OrderCancelled, OrderCreated
from admitone.kernel.database.batching import Batcher
from admitone.kernel.ids import new_id
from admitone.orders.model import OrderView
from admitone.orders.store import Reservation, Reserved, reserve_tickets
from tests import engines
from tests.orders.support import changed, hear, listed, orders_database, reserve, told


async def test_a_free_ticket_is_held_at_its_price(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket, bob = listed(price_cents=1050), new_id()
        await hear(database, ticket)
        reserved = await reserve(database, ticket.id, bob)
        assert reserved.outcome == "made"
        assert reserved.body is not None
        order = msgspec.json.decode(reserved.body, type=OrderView)
        assert (order.user_id, order.status, order.version) == (bob, "created", 0)
        assert '"price":10.50' in reserved.body
        [event] = await told(database)
        assert isinstance(event, OrderCreated)
        assert (event.id, event.user_id, event.status, event.version) == (order.id, bob, "created", 0)
        assert (event.ticket.id, event.ticket.version, event.ticket.price_cents) == (ticket.id, 0, 1050)
        assert event.expires_at.isoformat(timespec="milliseconds").replace("+00:00", "Z") == order.expires_at


async def test_nobody_reserves_an_unknown_or_their_own_ticket(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        alice = new_id()
        ticket = listed(seller=alice)
        await hear(database, ticket)
        assert (await reserve(database, new_id(), alice)).outcome == "no such ticket"
        assert (await reserve(database, ticket.id, alice)).outcome == "own ticket"
        assert await told(database) == []


async def test_the_next_buyer_evicts_a_hold_whose_deadline_has_passed(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket, bob, carol = listed(), new_id(), new_id()
        await hear(database, ticket)
        first = await reserve(database, ticket.id, bob, window_seconds=0)
        assert first.outcome == "made"
        assert (await reserve(database, ticket.id, carol)).outcome == "made"
        assert (await reserve(database, ticket.id, bob)).outcome == "reserved"
        created, cancelled, next_created = await told(database)
        assert isinstance(created, OrderCreated)
        assert isinstance(cancelled, OrderCancelled)
        assert (cancelled.id, cancelled.version, cancelled.reason) == (created.id, 1, "expired")
        assert isinstance(next_created, OrderCreated)
        assert next_created.user_id == carol


async def test_a_hold_is_not_evicted_before_its_deadline(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await hear(database, ticket)
        await reserve(database, ticket.id, new_id(), window_seconds=1)
        assert (await reserve(database, ticket.id, new_id())).outcome == "reserved"


async def test_s05_one_statement_with_many_buyers_of_one_ticket_has_one_winner(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await hear(database, ticket)
        asks = [Reservation(ticket.id, new_id(), None) for _ in range(50)]
        outcomes = [each.outcome for each in await reserve_tickets(database, asks, 900, 201)]
        assert sorted(outcomes) == ["made"] + ["reserved"] * 49
        assert len(await told(database)) == 1


async def test_g14_concurrent_statements_over_the_same_tickets_sell_each_once(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        tickets = [listed() for _ in range(30)]
        await hear(database, *tickets)

        async def buyer(forwards: bool) -> list[str]:
            some = tickets if forwards else tickets[::-1]
            asks = [Reservation(each.id, new_id(), None) for each in some]
            return [each.outcome for each in await reserve_tickets(database, asks, 900, 201)]

        outcomes = await asyncio.gather(*(buyer(number % 2 == 0) for number in range(20)))
        assert sum(each.count("made") for each in outcomes) == len(tickets)
        held = await database.fetchval("SELECT count(DISTINCT ticket_id) FROM orders WHERE status = 'created'")
        assert held == len(tickets)


async def test_the_same_key_gets_the_same_answer_and_another_request_is_told_so(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket, other, bob = listed(), listed(), new_id()
        await hear(database, ticket, other)
        ask = Reservation(ticket.id, bob, None, "key-1", b"one")
        [first] = await reserve_tickets(database, [ask], 900, 201)
        [again] = await reserve_tickets(database, [ask], 900, 201)
        assert (first.outcome, again.outcome) == ("made", "repeated")
        assert first.body == again.body
        [reused] = await reserve_tickets(database, [Reservation(other.id, bob, None, "key-1", b"two")], 900, 201)
        assert reused.outcome == "key reused"
        assert len(await told(database)) == 1


@pytest.mark.parametrize("price_cents", [50, 1999, 99_999_999])
async def test_the_price_is_exact_in_answer_and_event(databases: engines.Databases, price_cents: int) -> None:
    async with orders_database(databases) as database:
        ticket = listed(price_cents=price_cents)
        await hear(database, ticket)
        reserved = await reserve(database, ticket.id, new_id())
        assert reserved.body is not None
        assert round(msgspec.json.decode(reserved.body, type=OrderView).ticket.price * 100) == price_cents


async def test_s11_every_price_from_050_to_10000_is_held_and_told_exactly(databases: engines.Databases) -> None:
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
        asks = [Reservation(each, bob, None) for each in tickets]
        made = [
            one
            for at in range(0, len(asks), 500)
            for one in await reserve_tickets(database, asks[at : at + 500], 900, 201)
        ]
        assert len(made) == len(prices) == 9_951
        for reserved, cents in zip(made, tickets.values(), strict=True):
            assert reserved.body is not None
            assert f'"price":{cents // 100}.{cents % 100:02d},' in reserved.body
        events = await told(database)
        assert all(
            isinstance(each, OrderCreated) and each.ticket.price_cents == tickets[each.ticket.id] for each in events
        )
        assert len(events) == len(prices)


async def test_an_order_keeps_its_price_when_the_ticket_changes_later(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket, carol = listed(price_cents=1000), new_id()
        await hear(database, ticket)
        await reserve(database, ticket.id, new_id(), window_seconds=0)
        await hear(database, changed(ticket, price_cents=2000))
        await reserve(database, ticket.id, carol)
        prices = {row["price_cents"] for row in await database.fetch("SELECT price_cents FROM orders")}
        assert prices == {1000, 2000}


async def test_the_deadline_is_the_database_clock_plus_the_window(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await hear(database, ticket)
        await reserve(database, ticket.id, new_id(), window_seconds=60)
        row = await database.fetchrow("SELECT created_at, expires_at FROM orders")
        assert row is not None
        assert row["expires_at"] - row["created_at"] == timedelta(seconds=60)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE orders SET status = 'created', version = 2, cancel_reason = NULL",
        "UPDATE orders SET version = version + 1",
        "DELETE FROM orders",
    ],
)
async def test_the_database_itself_keeps_a_finished_order_as_it_is(
    databases: engines.Databases, statement: str
) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await hear(database, ticket)
        await reserve(database, ticket.id, new_id())
        await database.execute("UPDATE orders SET status = 'cancelled', version = 1, cancel_reason = 'expired'")
        with pytest.raises(Exception, match=r"never|permission denied"):
            await database.execute(statement)


async def test_gathered_reservations_each_get_their_own_answer(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        tickets = [listed() for _ in range(200)]
        await hear(database, *tickets)
        gathered = Batcher[Reservation, Reserved](lambda asks: reserve_tickets(database, asks, 900, 201))
        outcomes = await asyncio.gather(*(gathered(Reservation(each.id, new_id(), None)) for each in tickets * 2))
        assert sorted(each.outcome for each in outcomes) == ["made"] * 200 + ["reserved"] * 200


async def test_a_reservation_that_fails_spoils_no_other_of_its_batch(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket, long_key = listed(), "k" * 9000
        await hear(database, ticket)
        gathered = Batcher[Reservation, Reserved](lambda asks: reserve_tickets(database, asks, 900, 201))
        asks = [
            Reservation(new_id(), new_id(), None),
            Reservation(ticket.id, new_id(), "\0 is no text for PostgreSQL", long_key, b"x"),
            Reservation(ticket.id, new_id(), None),
        ]
        # The first goes out alone; the other two wait together and share a statement.
        results = await asyncio.gather(
            *(gathered(each) for each in [asks[0], asks[0], *asks[1:]]), return_exceptions=True
        )
        assert isinstance(results[2], Exception)
        assert isinstance(results[3], Reserved)
        assert results[3].outcome == "made"
