"""What orders does when it hears something: once, late, twice, or in any sequence."""

import itertools
from typing import Any

import pytest

from admitone.events import (
    OrderAwaitingPayment,
    OrderCancelled,
    OrderCompleted,
    OrderCreated,
    OrderExpired,
    PaymentAuthorized,
    PaymentCreated,
    PaymentFailed,
    PaymentRejected,
    TicketCreated,
    TicketLockRefused,
)
from admitone.kernel.database.pool import Database
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.event import Event
from tests import engines
from tests.orders.support import changed, hear, listed, orders_database, reserve, told


async def held(database: Database, ticket: TicketCreated, *, window_seconds: int = 900) -> OrderCreated:
    """An order whose lock tickets has confirmed."""
    await hear(database, ticket)
    await reserve(database, ticket.id, new_id(), window_seconds=window_seconds)
    order = (await told(database))[-1]
    assert isinstance(order, OrderCreated)
    await hear(database, changed(ticket, status="reserved", order_id=order.id))
    return order


def authorized(order: OrderCreated, **changes: object) -> PaymentAuthorized:
    fields: dict[str, Any] = {
        "id": new_id(),
        "order_id": order.id,
        "user_id": order.user_id,
        "amount_cents": order.ticket.price_cents,
        "currency": order.ticket.currency,
        "stripe_id": "pi_1",
    }
    return PaymentAuthorized(**{**fields, **changes})


def captured(payment: PaymentAuthorized) -> PaymentCreated:
    return PaymentCreated(**{name: getattr(payment, name) for name in payment.__struct_fields__})


async def status(database: Database, order: OrderCreated) -> str:
    found = await database.fetchval("SELECT status FROM orders WHERE id = $1", order.id)
    assert isinstance(found, str)
    return found


async def news(database: Database, order: OrderCreated) -> list[Event]:
    """What was told after the order was made."""
    every = await told(database)
    return every[every.index(order) + 1 :]


async def test_o10_ticket_created_stores_the_replica(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed(price_cents=725)
        await hear(database, ticket)
        row = await database.fetchrow("SELECT * FROM ticket WHERE id = $1", ticket.id)
        assert row is not None
        assert (row["price_cents"], row["version"], row["title"], row["seller_id"]) == (
            725,
            0,
            ticket.title,
            ticket.user_id,
        )


async def test_o12_ticket_updated_is_applied_at_the_next_version(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await hear(database, ticket, changed(ticket, price_cents=300))
        row = await database.fetchrow("SELECT version, price_cents FROM ticket WHERE id = $1", ticket.id)
        assert row is not None
        assert tuple(row) == (1, 300)


async def test_o14_a_skipped_version_is_not_applied_and_waits(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed(price_cents=100)
        first = changed(ticket, price_cents=200)
        second = changed(first, price_cents=300)
        await hear(database, ticket)
        [gap] = await hear(database, second)
        assert (gap.producer, gap.aggregate, gap.have_version) == ("tickets", ticket.id, 0)
        assert await database.fetchval("SELECT version FROM ticket WHERE id = $1", ticket.id) == 0
        assert await hear(database, first, second) == []
        assert await database.fetchval("SELECT price_cents FROM ticket WHERE id = $1", ticket.id) == 300


@pytest.mark.parametrize("sequence", list(itertools.permutations(range(3))))
async def test_s04_every_permutation_of_ticket_events_converges(
    databases: engines.Databases, sequence: tuple[int, ...]
) -> None:
    async with orders_database(databases) as database:
        ticket = listed(price_cents=100)
        first = changed(ticket, price_cents=200)
        events = [ticket, first, changed(first, price_cents=300)]
        for _ in range(3):  # what is missing stays on the bus and comes again
            for index in sequence:
                await hear(database, events[index])
        row = await database.fetchrow("SELECT version, price_cents FROM ticket WHERE id = $1", ticket.id)
        assert row is not None
        assert tuple(row) == (2, 300)


async def test_o15_o16_an_alarm_after_the_deadline_cancels_and_tells(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed(), window_seconds=0)
        await hear(database, OrderExpired(order_id=order.id))
        assert await status(database, order) == "cancelled"
        [cancelled] = await news(database, order)
        assert isinstance(cancelled, OrderCancelled)
        assert (cancelled.id, cancelled.version, cancelled.reason) == (order.id, 1, "expired")
        assert cancelled.ticket_id == order.ticket.id


async def test_an_alarm_before_the_deadline_changes_nothing(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        await hear(database, OrderExpired(order_id=order.id))
        assert await status(database, order) == "created"
        assert await news(database, order) == []


async def test_g10_an_alarm_for_a_complete_order_is_ignored(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed(), window_seconds=0)
        payment = authorized(order)
        await hear(database, payment, captured(payment), OrderExpired(order_id=order.id))
        assert await status(database, order) == "complete"


async def test_an_authorised_payment_is_awaited_then_completes_the_order(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        payment = authorized(order)
        await hear(database, payment)
        assert await status(database, order) == "awaiting:payment"
        await hear(database, captured(payment))
        assert await status(database, order) == "complete"
        awaiting, completed = await news(database, order)
        assert isinstance(awaiting, OrderAwaitingPayment)
        assert isinstance(completed, OrderCompleted)
        assert (awaiting.version, completed.version) == (1, 2)
        assert awaiting.payment_id == completed.payment_id == payment.id


async def test_g09_the_same_payment_told_again_changes_nothing(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        payment = authorized(order)
        for event in (payment, payment, captured(payment), payment, captured(payment)):
            await hear(database, event)
        assert await status(database, order) == "complete"
        assert len(await news(database, order)) == 2


async def test_a_payment_waits_until_the_lock_is_confirmed(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await hear(database, ticket)
        await reserve(database, ticket.id, new_id())
        order = (await told(database))[-1]
        assert isinstance(order, OrderCreated)
        payment = authorized(order)
        [gap] = await hear(database, payment)
        assert (gap.producer, gap.aggregate) == ("tickets", ticket.id)
        assert await status(database, order) == "created"
        await hear(database, changed(ticket, status="reserved", order_id=order.id))
        assert await hear(database, payment) == []
        assert await status(database, order) == "awaiting:payment"


@pytest.mark.parametrize("wrong", [{"amount_cents": 1}, {"currency": "eur"}, {"user_id": new_id()}])
async def test_a_payment_that_is_not_this_orders_is_rejected(
    databases: engines.Databases, wrong: dict[str, object]
) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        payment = authorized(order, **wrong)
        await hear(database, payment)
        assert await status(database, order) == "created"
        assert await news(database, order) == [PaymentRejected(order_id=order.id, payment_id=payment.id)]


async def test_s09_a_payment_after_the_expiry_is_rejected(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed(), window_seconds=0)
        payment = authorized(order)
        await hear(database, OrderExpired(order_id=order.id), payment)
        assert await status(database, order) == "cancelled"
        assert (await news(database, order))[1:] == [PaymentRejected(order_id=order.id, payment_id=payment.id)]


async def test_s09_an_expiry_after_the_payment_changes_nothing(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed(), window_seconds=0)
        payment = authorized(order)
        await hear(database, payment, OrderExpired(order_id=order.id), captured(payment))
        assert await status(database, order) == "complete"


async def test_a_second_payment_for_an_order_is_rejected(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        first, second = authorized(order), authorized(order)
        await hear(database, first, second, captured(first))
        assert await status(database, order) == "complete"
        assert PaymentRejected(order_id=order.id, payment_id=second.id) in await news(database, order)


async def test_a_charge_for_a_cancelled_order_goes_back(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed(), window_seconds=0)
        payment = authorized(order)
        await hear(database, OrderExpired(order_id=order.id), captured(payment))
        assert PaymentRejected(order_id=order.id, payment_id=payment.id) in await news(database, order)


async def test_s12_a_failed_payment_cancels_the_order(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        await hear(database, PaymentFailed(id=new_id(), order_id=order.id, reason="card_declined"))
        [cancelled] = await news(database, order)
        assert isinstance(cancelled, OrderCancelled)
        assert cancelled.reason == "payment_failed"


async def test_an_authorisation_lost_before_its_capture_cancels_the_order(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        payment = authorized(order)
        other = PaymentFailed(id=new_id(), order_id=order.id, reason="card_declined")
        await hear(database, payment, other)
        assert await status(database, order) == "awaiting:payment"
        await hear(database, PaymentFailed(id=payment.id, order_id=order.id, reason="authorization_lost"))
        assert await status(database, order) == "cancelled"


async def test_s13_a_refused_lock_cancels_the_order(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await hear(database, ticket)
        await reserve(database, ticket.id, new_id())
        order = (await told(database))[-1]
        assert isinstance(order, OrderCreated)
        refused = TicketLockRefused(ticket_id=ticket.id, order_id=order.id)
        await hear(database, refused, refused)
        [cancelled] = await news(database, order)
        assert isinstance(cancelled, OrderCancelled)
        assert cancelled.reason == "ticket_changed"


async def test_s03_every_event_heard_five_times_has_one_effect(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        payment = authorized(order)
        for event in (payment, captured(payment)):
            await hear(database, *[event] * 5)
        assert await status(database, order) == "complete"
        assert [type(each) for each in await news(database, order)] == [OrderAwaitingPayment, OrderCompleted]
