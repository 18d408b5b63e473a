"""What orders does on events: delivered once, late, twice, or in any sequence."""

import itertools
import random
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
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
from admitone.kernel.messaging.recovery import CannotRebuild
from admitone.orders.handlers import rebuild_new_order, rebuild_order, snapshots
from admitone.orders.service import SERVICE
from tests import engines, inbox
from tests.orders.support import changed, consume, listed, orders_database, published, reserve


async def held(database: Database, ticket: TicketCreated, *, hold_seconds: int = 900) -> OrderCreated:
    """An order whose lock tickets has confirmed."""
    await consume(database, ticket)
    await reserve(database, ticket.id, new_id(), hold_seconds=hold_seconds)
    order = (await published(database))[-1]
    assert isinstance(order, OrderCreated)
    await consume(database, changed(ticket, status="reserved", order_id=order.id))
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


async def published_since(database: Database, order: OrderCreated) -> list[Event]:
    """What was published after the order was created."""
    events = await published(database)
    return events[events.index(order) + 1 :]


async def test_o10_ticket_created_stores_the_replica(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed(price_cents=725)
        await consume(database, ticket)
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
        await consume(database, ticket, changed(ticket, price_cents=300))
        row = await database.fetchrow("SELECT version, price_cents FROM ticket WHERE id = $1", ticket.id)
        assert row is not None
        assert tuple(row) == (1, 300)


async def test_the_replica_has_the_face_value_of_the_last_version(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed(face_value_cents=5800)
        first = changed(ticket, face_value_cents=0)
        seen = []
        for event in (ticket, first, changed(first, face_value_cents=None)):
            await consume(database, event)
            seen.append(await database.fetchval("SELECT face_value_cents FROM ticket WHERE id = $1", ticket.id))
        assert seen == [5800, 0, None]


async def test_o14_a_skipped_version_is_not_applied_and_waits(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed(price_cents=100)
        first = changed(ticket, price_cents=200)
        second = changed(first, price_cents=300)
        await consume(database, ticket)
        [missing] = await consume(database, second)
        assert (missing.producer, missing.aggregate, missing.have_version) == ("tickets", ticket.id, 0)
        assert await database.fetchval("SELECT version FROM ticket WHERE id = $1", ticket.id) == 0
        assert await consume(database, first, second) == []
        assert await database.fetchval("SELECT price_cents FROM ticket WHERE id = $1", ticket.id) == 300


@pytest.mark.parametrize("sequence", list(itertools.permutations(range(3))))
async def test_s04_every_permutation_of_ticket_events_converges(
    databases: engines.Databases, sequence: tuple[int, ...]
) -> None:
    async with orders_database(databases) as database:
        ticket = listed(price_cents=100)
        first = changed(ticket, price_cents=200)
        events = [ticket, first, changed(first, price_cents=300)]
        for _ in range(3):  # an event that must wait is delivered again
            for index in sequence:
                await consume(database, events[index])
        row = await database.fetchrow("SELECT version, price_cents FROM ticket WHERE id = $1", ticket.id)
        assert row is not None
        assert tuple(row) == (2, 300)


async def test_o15_o16_a_signal_after_the_deadline_cancels_and_publishes(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed(), hold_seconds=0)
        await consume(database, OrderExpired(order_id=order.id))
        assert await status(database, order) == "cancelled"
        [cancelled] = await published_since(database, order)
        assert isinstance(cancelled, OrderCancelled)
        assert (cancelled.id, cancelled.version, cancelled.reason) == (order.id, 1, "expired")
        assert cancelled.ticket_id == order.ticket.id


async def test_a_signal_before_the_deadline_changes_nothing(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        await consume(database, OrderExpired(order_id=order.id))
        assert await status(database, order) == "created"
        assert await published_since(database, order) == []


async def test_g10_a_signal_for_a_complete_order_is_ignored(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed(), hold_seconds=0)
        payment = authorized(order)
        await consume(database, payment, captured(payment), OrderExpired(order_id=order.id))
        assert await status(database, order) == "complete"


async def test_an_authorised_payment_is_awaited_then_completes_the_order(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        payment = authorized(order)
        await consume(database, payment)
        assert await status(database, order) == "awaiting:payment"
        await consume(database, captured(payment))
        assert await status(database, order) == "complete"
        awaiting, completed = await published_since(database, order)
        assert isinstance(awaiting, OrderAwaitingPayment)
        assert isinstance(completed, OrderCompleted)
        assert (awaiting.version, completed.version) == (1, 2)
        assert awaiting.payment_id == completed.payment_id == payment.id


async def test_g09_repeated_payment_events_change_nothing(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        payment = authorized(order)
        for event in (payment, payment, captured(payment), payment, captured(payment)):
            await consume(database, event)
        assert await status(database, order) == "complete"
        assert len(await published_since(database, order)) == 2


async def test_a_payment_waits_until_the_lock_is_confirmed(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await consume(database, ticket)
        await reserve(database, ticket.id, new_id())
        order = (await published(database))[-1]
        assert isinstance(order, OrderCreated)
        payment = authorized(order)
        [missing] = await consume(database, payment)
        assert (missing.producer, missing.aggregate) == ("tickets", ticket.id)
        assert await status(database, order) == "created"
        await consume(database, changed(ticket, status="reserved", order_id=order.id))
        assert await consume(database, payment) == []
        assert await status(database, order) == "awaiting:payment"


@pytest.mark.parametrize("wrong", [{"amount_cents": 1}, {"currency": "eur"}, {"user_id": new_id()}])
async def test_a_payment_that_does_not_match_the_order_is_rejected(
    databases: engines.Databases, wrong: dict[str, object]
) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        payment = authorized(order, **wrong)
        await consume(database, payment)
        assert await status(database, order) == "created"
        assert await published_since(database, order) == [PaymentRejected(order_id=order.id, payment_id=payment.id)]


async def test_s09_a_payment_after_the_expiry_is_rejected(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed(), hold_seconds=0)
        payment = authorized(order)
        await consume(database, OrderExpired(order_id=order.id), payment)
        assert await status(database, order) == "cancelled"
        assert (await published_since(database, order))[1:] == [
            PaymentRejected(order_id=order.id, payment_id=payment.id)
        ]


async def test_s09_an_expiry_after_the_payment_changes_nothing(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed(), hold_seconds=0)
        payment = authorized(order)
        await consume(database, payment, OrderExpired(order_id=order.id), captured(payment))
        assert await status(database, order) == "complete"


async def test_a_second_payment_for_an_order_is_rejected(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        first, second = authorized(order), authorized(order)
        await consume(database, first, second, captured(first))
        assert await status(database, order) == "complete"
        assert PaymentRejected(order_id=order.id, payment_id=second.id) in await published_since(database, order)


async def test_a_charge_for_a_cancelled_order_is_rejected(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed(), hold_seconds=0)
        payment = authorized(order)
        await consume(database, OrderExpired(order_id=order.id), captured(payment))
        assert PaymentRejected(order_id=order.id, payment_id=payment.id) in await published_since(database, order)


async def test_s12_a_failed_payment_cancels_the_order(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        await consume(database, PaymentFailed(id=new_id(), order_id=order.id, reason="card_declined"))
        [cancelled] = await published_since(database, order)
        assert isinstance(cancelled, OrderCancelled)
        assert cancelled.reason == "payment_failed"


async def test_an_authorisation_lost_before_its_capture_cancels_the_order(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        payment = authorized(order)
        other = PaymentFailed(id=new_id(), order_id=order.id, reason="card_declined")
        await consume(database, payment, other)
        assert await status(database, order) == "awaiting:payment"
        await consume(database, PaymentFailed(id=payment.id, order_id=order.id, reason="authorization_lost"))
        assert await status(database, order) == "cancelled"


async def test_s13_a_refused_lock_cancels_the_order(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await consume(database, ticket)
        await reserve(database, ticket.id, new_id())
        order = (await published(database))[-1]
        assert isinstance(order, OrderCreated)
        refused = TicketLockRefused(ticket_id=ticket.id, order_id=order.id)
        await consume(database, refused, refused)
        [cancelled] = await published_since(database, order)
        assert isinstance(cancelled, OrderCancelled)
        assert cancelled.reason == "ticket_changed"


async def test_s03_every_event_delivered_five_times_has_one_effect(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        payment = authorized(order)
        for event in (payment, captured(payment)):
            await consume(database, *[event] * 5)
        assert await status(database, order) == "complete"
        assert [type(each) for each in await published_since(database, order)] == [OrderAwaitingPayment, OrderCompleted]


@pytest.mark.parametrize("seed", range(6))
async def test_every_division_into_batches_has_the_same_effect(databases: engines.Databases, seed: int) -> None:
    """Payments of ten orders, some paid twice, failed or lost, in batches of random sizes."""
    chance = random.Random(seed)
    async with orders_database(databases) as database:
        expected: dict[UUID, str] = {}
        histories: list[list[Event]] = []
        rejected: set[UUID] = set()
        for _ in range(10):
            order = await held(database, listed())
            payment, second = authorized(order), authorized(order)
            history: list[Event] = [payment]
            what = chance.choice(["paid", "paid twice", "failed", "lost"])
            if what == "failed":
                history = [PaymentFailed(id=payment.id, order_id=order.id, reason="card_declined")]
            elif what == "lost":
                history += [PaymentFailed(id=payment.id, order_id=order.id, reason="authorization_lost")]
            else:
                history += [captured(payment)]
                if what == "paid twice":
                    history.insert(chance.randint(1, 2), second)
                    rejected.add(second.id)
            expected[order.id] = "complete" if what.startswith("paid") else "cancelled"
            histories.append(history)
        stream: list[Event] = []
        while left := [each for each in histories if each]:
            stream.append(chance.choice(left).pop(0))
        while stream:
            size = chance.randint(1, 15)
            assert await consume(database, *stream[:size]) == []
            stream = stream[size:]
        rows = await database.fetch("SELECT id, status FROM orders")
        assert {row["id"]: row["status"] for row in rows} == expected
        rejections = [each.payment_id for each in await published(database) if isinstance(each, PaymentRejected)]
        assert sorted(rejections) == sorted(rejected)


async def test_two_payments_of_one_order_in_one_batch_are_decided_one_after_the_other(
    databases: engines.Databases,
) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        first, second = authorized(order), authorized(order)
        assert await consume(database, first, second) == []
        awaiting, rejection = await published_since(database, order)
        assert isinstance(awaiting, OrderAwaitingPayment)
        assert awaiting.payment_id == first.id
        assert rejection == PaymentRejected(order_id=order.id, payment_id=second.id)


async def test_a_ticket_event_that_was_dropped_is_not_waited_for(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        versions = [changed(ticket, version=number, price_cents=1000 + number) for number in (1, 2)]
        await consume(database, ticket)
        assert len(await consume(database, versions[1])) == 1
        await inbox.drop(database, versions[0])
        assert await consume(database, versions[1]) == []
        assert await database.fetchval("SELECT price_cents FROM ticket WHERE id = $1", ticket.id) == 1002
        unlisted = listed()
        await inbox.drop(database, unlisted)
        assert await consume(database, changed(unlisted)) == []
        assert await database.fetchval("SELECT version FROM ticket WHERE id = $1", unlisted.id) == 1


async def test_a_snapshot_of_a_ticket_follows_any_version_before(databases: engines.Databases) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        snapshot = changed(ticket, version=7, seat="13", snapshot=True)
        assert await consume(database, snapshot) == []
        assert await consume(database, ticket, changed(ticket, version=6, seat="12", snapshot=True)) == []
        assert await database.fetchval("SELECT seat FROM ticket WHERE id = $1", ticket.id) == "13"
        # In the same version it may have fields that the replica did not keep before.
        assert await consume(database, changed(ticket, version=7, seat="13", venue="Luso", snapshot=True)) == []
        assert await database.fetchval("SELECT venue FROM ticket WHERE id = $1", ticket.id) == "Luso"
        assert await consume(database, changed(ticket, version=8, seat="14")) == []


@pytest.mark.parametrize("ending", ["created", "awaiting", "complete", "cancelled", "payment failed"])
async def test_the_snapshot_of_an_order_is_what_was_published(databases: engines.Databases, ending: str) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        payment = authorized(order)
        if ending in {"awaiting", "complete", "payment failed"}:
            await consume(database, payment)
        if ending == "complete":
            await consume(database, captured(payment))
        if ending == "payment failed":
            await consume(database, PaymentFailed(id=payment.id, order_id=order.id, reason="lost"))
        if ending == "cancelled":
            await consume(database, TicketLockRefused(ticket_id=order.ticket.id, order_id=order.id))
        before = await published(database)
        assert len(before) == {"created": 1, "complete": 3, "payment failed": 3}.get(ending, 2)
        async with database.transaction() as tx:
            assert await snapshots(tx, [order.id, new_id()]) == before


async def test_orders_are_rebuilt_from_their_events(databases: engines.Databases) -> None:
    place: dict[str, Any] = {"venue": "Clube de Fado", "section": "A", "row": "4", "seat": "12", "note": "Aisle"}
    async with orders_database(databases) as source, orders_database(databases) as restored:
        date = datetime(2027, 5, 1, 19, 30, tzinfo=UTC)
        await held(source, listed(face_value_cents=2500, event_date=date, **place))
        bought, lost, expired = [await held(source, listed()) for _ in range(3)]
        payment, failed = authorized(bought), authorized(lost)
        await consume(source, payment, captured(payment), failed)
        await consume(
            source, PaymentFailed(id=failed.id, order_id=lost.id, reason="The bank no longer holds the money")
        )
        await consume(source, TicketLockRefused(ticket_id=expired.ticket.id, order_id=expired.id))
        await inbox.rebuild(SERVICE, source, restored, times=2)
        every = "SELECT * FROM orders ORDER BY id"
        assert await restored.fetch(every) == await source.fetch(every)
        assert await published(restored) == []


async def test_an_order_that_an_earlier_release_published_without_its_offer_is_not_rebuilt(
    databases: engines.Databases,
) -> None:
    async with orders_database(databases) as database:
        order = await held(database, listed())
        bare = msgspec.structs.replace(order, id=new_id(), ticket=msgspec.structs.replace(order.ticket, title=None))
        with pytest.raises(CannotRebuild, match="earlier release"):
            async with database.transaction() as tx:
                await rebuild_new_order(tx, bare, tx.now)
        cancelled = OrderCancelled(
            id=bare.id, version=1, user_id=bare.user_id, ticket_id=bare.ticket.id, reason="expired"
        )
        with pytest.raises(CannotRebuild, match="the order is missing"):
            async with database.transaction() as tx:
                await rebuild_order(tx, cancelled, tx.now)


async def test_a_payment_of_a_rebuilt_order_waits_for_its_ticket(databases: engines.Databases) -> None:
    """Until the events of tickets have arrived again, the order is known and its ticket is not."""
    async with orders_database(databases) as source, orders_database(databases) as restored:
        ticket = listed()
        order = await held(source, ticket)
        await inbox.rebuild(SERVICE, source, restored)
        payment = authorized(order)
        [missing] = await consume(restored, payment)
        assert (missing.producer, missing.aggregate, missing.have_version) == ("tickets", ticket.id, -1)
        await consume(restored, ticket, changed(ticket, status="reserved", order_id=order.id), payment)
        assert await status(restored, order) == "awaiting:payment"


async def test_events_that_arrive_again_change_no_rebuilt_order(databases: engines.Databases) -> None:
    """A charge for an order that the restored database lacked was refunded."""
    async with orders_database(databases) as source, orders_database(databases) as restored:
        tickets = [listed() for _ in range(2)]
        bought, unpaid = [await held(source, each) for each in tickets]
        payment = authorized(bought)
        consumed = [payment, captured(payment), OrderExpired(order_id=bought.id), OrderExpired(order_id=unpaid.id)]
        await consume(source, *consumed)
        await inbox.rebuild(SERVICE, source, restored)
        await consume(restored, *tickets, *consumed)
        assert await published(restored) == []
        assert [await status(restored, each) for each in (bought, unpaid)] == ["complete", "created"]
