"""What payments does when orders publishes: once, late, twice, or in any order."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import asyncpg
import msgspec
import nats
import pytest
from nats.aio.client import Client

from admitone.events import OrderCreated, PaymentAuthorized, PaymentCreated, PaymentRefunded
from admitone.kernel import ids
from admitone.kernel.messaging.event import Event
from admitone.kernel.messaging.recovery import CannotRebuild
from admitone.payments import store
from admitone.payments.beginning import PaymentRequest
from admitone.payments.handlers import rebuild_ended_payment, snapshots
from admitone.payments.service import SERVICE
from admitone.payments.transitions import begin_payments
from tests import inbox
from tests.engines import Databases
from tests.inbox import message_of
from tests.payments.support import VISA, World, awaiting, cancelled, ordered, rejected
from tests.support import eventually

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content")

T = TypeVar("T")
U = TypeVar("U")

ANOTHER = """
INSERT INTO payment (id, order_id, attempt, buyer_id, amount_cents, currency, token, state, stripe_id)
SELECT gen_random_uuid(), order_id, 2, buyer_id, amount_cents, currency, token, """


async def replica(world: World, order: OrderCreated) -> tuple[str, int]:
    found = await store.order(world.service.database, order.id)
    assert found is not None
    return found.status, found.version


async def test_p05_the_replica_of_an_order_has_its_price_buyer_and_deadline(world: World) -> None:
    order = await world.order(4035)
    kept = await store.order(world.service.database, order.id)
    assert kept is not None
    assert (kept.price_cents, kept.currency, kept.buyer_id, kept.expires_at, kept.status, kept.version) == (
        *(4035, "usd", world.bob_id, order.expires_at, "created", 0),
    )


async def test_p07_the_replica_of_a_cancelled_order_is_cancelled(world: World) -> None:
    order = await world.order()
    assert not await world.consume(cancelled(order))
    assert await replica(world, order) == ("cancelled", 1)


async def test_p06_p08_events_from_the_bus_are_acknowledged(world: World) -> None:
    """End to end: published on the bus as by orders, consumed by the running inbox, acknowledged."""
    order = ordered(world.bob_id)
    admin = await _admin_bus(world.service.settings.nats_urls["payments"])
    try:
        await admin.jetstream().add_stream(name="orders", subjects=["events.orders.>"])
        for event in (order, cancelled(order)):
            await admin.jetstream().publish(f"events.orders.{type(event).__name__}", message_of(event))

        async def acknowledged() -> bool:
            found = await store.order(world.service.database, order.id)
            if found is None or found.status != "cancelled":
                return False
            info = await admin.jetstream().consumer_info("orders", "payments")
            return (info.num_ack_pending, info.num_pending) == (0, 0)

        await eventually(acknowledged, "both events are acknowledged", 20)
    finally:
        await admin.close()


async def test_g12_an_event_that_arrives_before_its_order_waits(world: World) -> None:
    order = ordered(world.bob_id)
    [gap] = await world.consume(cancelled(order))
    assert (gap.producer, gap.aggregate, gap.have_version) == ("orders", order.id, -1)
    assert not await world.consume(order, cancelled(order))
    assert await replica(world, order) == ("cancelled", 1)


async def test_g12_an_event_waits_for_the_version_before_it(world: World) -> None:
    order = await world.order()
    [gap] = await world.consume(cancelled(order, version=2, reason="payment_failed"))
    assert gap.have_version == 0
    assert await replica(world, order) == ("created", 0)
    await world.pay(order)
    payment = await world.payment(order)
    assert not await world.consume(awaiting(order, payment.id), cancelled(order, version=2, reason="payment_failed"))
    assert await replica(world, order) == ("cancelled", 2)


async def test_g13_a_repeated_event_has_no_further_effect(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    # With the same ids, and (after a backup was restored) with new ids.
    events = (order, awaiting(order, payment.id))
    same = [message_of(event) for event in events]
    for repeated in (same, same, events):
        assert not await world.consume(*repeated)
        await world.state(order, "captured")
    assert await world.published() == ["PaymentAuthorized", "PaymentCreated"]
    intent = await world.intent(order)
    assert intent.amount_received == 1999


@pytest.mark.parametrize("sequence", list(itertools.permutations(range(3))))
async def test_g13_events_in_any_order_have_the_same_effect(world: World, sequence: tuple[int, ...]) -> None:
    order = ordered(world.bob_id)
    events: list[Event] = [order, awaiting(order, ids.new_id()), cancelled(order, version=2, reason="payment_failed")]
    waiting = [events[index] for index in sequence]
    while waiting:
        for event in list(waiting):
            if not await world.consume(event):
                waiting.remove(event)
    assert await replica(world, order) == ("cancelled", 2)


async def test_g13_a_batch_has_the_effects_of_its_events(world: World) -> None:
    paid, rejected_, unpaid, ended = [await world.order() for _ in range(4)]
    for order in (paid, rejected_, ended):
        await world.pay(order)
    unknown = ordered(world.bob_id)
    payments = {order.id: await world.payment(order) for order in (paid, rejected_, ended)}
    batch = [
        rejected(rejected_, payments[rejected_.id].id),
        awaiting(paid, payments[paid.id].id),
        awaiting(unpaid, ids.new_id()),
        awaiting(unknown, ids.new_id()),
        cancelled(ended),
        awaiting(rejected_, payments[rejected_.id].id),
    ]
    [gap] = await world.consume(*batch)
    assert (gap.aggregate, gap.have_version) == (unknown.id, -1)
    for order, state in ((paid, "captured"), (rejected_, "voided"), (ended, "voided")):
        await world.state(order, state)
    assert await world.published(unpaid) == ["PaymentFailed"]
    assert await world.published(paid) == ["PaymentAuthorized", "PaymentCreated"]
    assert sorted(await world.published(rejected_)) == ["PaymentAuthorized", "PaymentFailed", "PaymentVoided"]
    assert await world.published(ended) == ["PaymentAuthorized", "PaymentVoided"]


async def test_s09_a_payment_of_a_cancelled_order_is_voided(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    await world.consume(cancelled(order, reason="expired"))
    await world.state(order, "voided")
    intent = await world.intent(order)
    assert (intent.status, intent.amount_received) == ("canceled", 0)
    assert await world.published() == ["PaymentAuthorized", "PaymentVoided"]


async def test_s09_a_payment_authorized_after_the_order_was_cancelled_is_voided(world: World) -> None:
    """The order ends during the request to the bank."""
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "delay_ms": 300}])
    paying = world.pay(order)
    answering = eventually(lambda: _begun(world, order), "the payment has begun")
    task, _ = await _both(paying, answering, lambda: world.consume(cancelled(order, reason="expired")))
    assert task.status_code == 400
    await world.state(order, "voided")
    assert (await world.intent(order)).status == "canceled"
    assert await world.published() == ["PaymentVoided"]


async def test_a_payment_authenticated_too_late_is_voided(world: World) -> None:
    order = await world.order()
    await world.pay(order, "pm_card_authenticationRequired")
    intent = await world.intent(order)
    await world.sandbox.inject(requests=[{"operations": ["cancel_intent"], "answer": "internal_error", "count": 3}])
    await world.consume(cancelled(order, reason="expired"))
    await world.sandbox.authenticate(intent)
    await world.state(order, "voided")
    assert (await world.intent(order)).status == "canceled"
    assert await world.published() == ["PaymentVoided"]


async def test_a_rejected_payment_is_voided_and_the_order_may_be_paid_again(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    await world.consume(rejected(order, (await world.payment(order)).id))
    await world.state(order, "voided")
    assert await world.published() == ["PaymentAuthorized", "PaymentVoided"]
    assert (await world.pay(order)).status_code == 201


async def test_a_rejected_payment_that_was_captured_is_refunded(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    await world.consume(awaiting(order, payment.id))
    await world.state(order, "captured")
    await world.consume(rejected(order, payment.id))
    await world.state(order, "refunded")
    [refund] = (await world.sandbox.client.v1.refunds.list_async()).data
    assert (refund.amount, refund.payment_intent) == (1999, payment.stripe_id)
    assert await world.published() == ["PaymentAuthorized", "PaymentCreated", "PaymentRefunded"]
    await world.consume(rejected(order, payment.id))
    assert len((await world.sandbox.client.v1.refunds.list_async()).data) == 1


async def test_a_manual_capture_before_the_decision_of_orders_follows_it(world: World) -> None:
    """Somebody captures in Stripe's dashboard."""
    accepted, refused = await world.order(), await world.order()
    for order in (accepted, refused):
        await world.pay(order)
        await world.sandbox.client.v1.payment_intents.capture_async((await world.intent(order)).id)
    await world.consume(awaiting(accepted, (await world.payment(accepted)).id), cancelled(refused))
    await world.state(accepted, "captured")
    await world.state(refused, "refunded")
    assert await world.published(accepted) == ["PaymentAuthorized", "PaymentCreated"]
    assert await world.published(refused) == ["PaymentAuthorized", "PaymentRefunded"]


async def test_an_authorization_lost_before_its_capture_fails_the_payment(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    await world.sandbox.inject(webhooks=[{"kind": "lose", "count": 0}])
    await world.sandbox.expire_authorization(str(payment.stripe_id))
    await world.consume(awaiting(order, payment.id))
    failed = await world.state(order, "failed")
    assert failed.reason == "The bank no longer holds the money"
    assert await world.published() == ["PaymentAuthorized", "PaymentFailed"]


async def test_an_awaited_payment_of_which_only_the_provider_knows_is_captured(world: World) -> None:
    """As after a restore: orders publishes again that it awaits a payment that is only begun here."""
    order, payment_id = await world.order(), ids.new_id()
    await world.service.database.execute(
        "INSERT INTO payment (id, order_id, attempt, buyer_id, amount_cents, currency, token, due_at) "
        "VALUES ($1, $2, 1, $3, 1999, 'usd', 'tok_visa', now() + interval '1 hour')",
        payment_id,
        order.id,
        world.bob_id,
    )
    await world.service.resources.gateway.authorize(await world.payment(order), "http://localhost/")
    await world.consume(awaiting(order, payment_id))
    await world.service.database.execute("UPDATE payment SET due_at = now()")
    await world.state(order, "captured")
    assert await world.published(order) == ["PaymentAuthorized", "PaymentCreated"]


async def test_an_awaited_payment_that_is_unknown_has_failed(world: World) -> None:
    order = await world.order()
    await world.consume(awaiting(order, ids.new_id()))
    assert await world.published() == ["PaymentFailed"]


async def test_an_awaited_payment_that_is_being_voided_has_failed(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    await world.consume(rejected(order, payment.id))
    await world.consume(awaiting(order, payment.id))
    await world.state(order, "voided")
    assert sorted(await world.published()) == ["PaymentAuthorized", "PaymentFailed", "PaymentVoided"]


async def test_a_capture_requested_many_times_is_made_once(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    await world.sandbox.inject(requests=[{"operations": ["capture_intent"], "delay_ms": 100, "count": 0}])
    await world.consume(awaiting(order, payment.id))
    for _ in range(5):
        async with world.service.database.transaction() as tx:
            await store.make_due(tx, [payment.id])
    await world.state(order, "captured")
    assert (await world.intent(order)).amount_received == 1999
    assert await world.published() == ["PaymentAuthorized", "PaymentCreated"]


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE payment SET state = 'authorized'", "goes from captured to authorized"),
        ("UPDATE payment SET state = 'voided'", "goes from captured to voided"),
        ("UPDATE payment SET amount_cents = 1", "cannot change its order, buyer or amount"),
        ("UPDATE payment SET stripe_id = 'pi_other'", "and nothing else"),
        ("DELETE FROM payment", "permission denied"),
        (f"{ANOTHER}'created', NULL FROM payment", "one_live_payment_per_order"),
        (f"{ANOTHER}'refunded', 'pi_2' FROM payment", "one_taken_payment_per_order"),
    ],
)
async def test_the_database_forbids_invalid_states(world: World, statement: str, complaint: str) -> None:
    order = await world.order()
    await world.pay(order)
    await world.consume(awaiting(order, (await world.payment(order)).id))
    await world.state(order, "captured")
    with pytest.raises(asyncpg.PostgresError, match=complaint):
        await world.service.database.execute(statement)


async def _begun(world: World, order: OrderCreated) -> bool:
    return bool(await world.payments(order))


async def _both(
    paying: Coroutine[Any, Any, T], waiting: Awaitable[object], then: Callable[[], Awaitable[U]]
) -> tuple[T, U]:
    """Start `paying`, wait for `waiting`, run `then`; return the results of the first and the last."""
    task = asyncio.create_task(paying)
    await waiting
    done = await then()
    return await task, done


async def _admin_bus(url: str) -> Client:
    place = url.rpartition("@")[2]
    return await nats.connect(f"nats://admin:admin-password@{place}")


async def test_the_events_of_an_order_whose_beginning_was_dropped_change_nothing(world: World) -> None:
    order = ordered(world.bob_id)
    await inbox.drop(world.service.database, order)
    assert not await world.consume(cancelled(order))
    assert await store.order(world.service.database, order.id) is None


async def test_a_version_that_was_dropped_is_not_waited_for(world: World) -> None:
    order = await world.order()
    await inbox.drop(world.service.database, awaiting(order, ids.new_id()))
    assert not await world.consume(cancelled(order, version=2, reason="payment_failed"))
    assert await replica(world, order) == ("cancelled", 2)


async def test_the_snapshot_of_a_captured_payment_is_what_orders_completed_the_order_with(world: World) -> None:
    order, other = await world.order(), await world.order()
    for each in (order, other):
        await world.pay(each)
    payment = await world.payment(order)
    await world.consume(awaiting(order, payment.id), cancelled(other))
    await world.state(order, "captured")
    await world.state(other, "voided")
    async with world.service.database.transaction() as tx:
        events = await snapshots(tx, [order.id, other.id])
    assert [type(event) for event in events] == [PaymentAuthorized, PaymentCreated]
    assert {event.aggregate for event in events} == {payment.id}


REBUILT = "id, order_id, buyer_id, amount_cents, currency, state, stripe_id, refunded_cents"


async def test_payments_are_rebuilt_from_their_events(world: World, databases: Databases) -> None:
    paid, held, refused, returned = [await world.order(1000 + each) for each in range(4)]
    for order in (paid, held, refused, returned):
        await world.pay(order)
    payments = {order.id: await world.payment(order) for order in (paid, held, refused, returned)}
    captures = [awaiting(each, payments[each.id].id) for each in (paid, returned)]
    await world.consume(*captures)
    for order in (paid, returned):
        await world.state(order, "captured")
    ends = [rejected(each, payments[each.id].id) for each in (refused, returned)]
    await world.consume(*ends)
    await world.state(refused, "voided")
    await world.state(returned, "refunded")
    declined = await world.order()
    for _ in range(3):
        await world.pay(declined, "tok_chargeDeclined")

    async with inbox.service_database(databases, SERVICE) as restored:
        await inbox.rebuild(SERVICE, world.service.database, restored, times=2)
        every = f"SELECT {REBUILT} FROM payment WHERE order_id <> $1 ORDER BY id"
        assert await restored.fetch(every, declined.id) == await world.service.database.fetch(every, declined.id)
        assert await store.payments_of(restored, [declined.id]) == []
        assert await store.take_due(restored, 10) == []  # none has its order yet

        await inbox.consume(SERVICE, restored, paid, held, refused, returned, *captures, *ends)
        assert await inbox.published(SERVICE, restored) == []
        [(checked, its_order, _)] = await store.take_due(restored, 10)
        assert (checked.id, checked.wanted, its_order.id) == (payments[held.id].id, None, held.id)
        await inbox.consume(SERVICE, restored, awaiting(held, checked.id))
        [captured] = await store.payments_of(restored, [held.id])
        assert captured.wanted == "capture"


async def test_a_payment_that_was_declined_meanwhile_makes_way_for_the_one_after_it(
    world: World, databases: Databases
) -> None:
    """The end of a declined payment is not published, unless it was the last one."""
    order = await world.order()
    async with inbox.service_database(databases, SERVICE) as restored:
        await inbox.consume(SERVICE, restored, order)
        begun = PaymentRequest(ids.new_id(), order.id, world.bob_id, VISA, None)
        await begin_payments(restored, [begun], 3)
        await world.pay(order)
        await inbox.rebuild(SERVICE, world.service.database, restored)
        first, second = await store.payments_of(restored, [order.id])
    assert (first.id, first.state, first.wanted, first.due_at) == (begun.payment_id, "voided", None, first.due_at)
    assert first.due_at is not None
    assert (second.attempt, second.state) == (2, "authorized")


async def test_a_refund_without_its_charge_cannot_be_rebuilt(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    refund = payment.event(PaymentRefunded)
    with pytest.raises(CannotRebuild):
        async with world.service.database.transaction() as tx:
            await rebuild_ended_payment(tx, msgspec.structs.replace(refund, id=ids.new_id()), tx.now)
    async with world.service.database.transaction() as tx:
        await rebuild_ended_payment(tx, refund, tx.now)
    refunded = await world.payment(order)
    assert (refunded.state, refunded.refunded_cents) == ("refunded", 1999)
