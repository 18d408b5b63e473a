"""What payments does when orders tell it something: once, late, twice, or in any sequence."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import asyncpg
import nats
import pytest
from nats.aio.client import Client

from admitone.events import OrderCreated
from admitone.kernel import ids
from admitone.kernel.event import Event, unwrap
from admitone.kernel.inbox import Inbox
from admitone.payments import store
from admitone.payments.service import SERVICE
from tests.payments.support import World, awaiting, cancelled, on_the_bus, ordered, rejected
from tests.support import eventually

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content")

T = TypeVar("T")
U = TypeVar("U")

ANOTHER = """
INSERT INTO payment (id, order_id, attempt, user_id, amount_cents, currency, token, state, stripe_id)
SELECT gen_random_uuid(), order_id, 2, user_id, amount_cents, currency, token, """


async def replica(world: World, order: OrderCreated) -> tuple[str, int]:
    found = await store.order(world.service.database, order.id)
    assert found is not None
    return found.status, found.version


async def test_p05_an_order_is_kept_with_its_price_buyer_and_deadline(world: World) -> None:
    order = await world.order(4035)
    kept = await store.order(world.service.database, order.id)
    assert kept is not None
    assert (kept.price_cents, kept.currency, kept.user_id, kept.expires_at, kept.status, kept.version) == (
        *(4035, "usd", world.bob_id, order.expires_at, "created", 0),
    )


async def test_p07_a_cancelled_order_is_kept_as_cancelled(world: World) -> None:
    order = await world.order()
    assert not await world.hear(cancelled(order))
    assert await replica(world, order) == ("cancelled", 1)


async def test_p06_p08_events_from_the_bus_are_acknowledged(world: World) -> None:
    """The whole way: published on the bus by orders, taken in by the running inbox, acknowledged."""
    order = ordered(world.bob_id)
    admin = await _admin_bus(world.service.settings.nats_urls["payments"])
    try:
        await admin.jetstream().add_stream(name="orders", subjects=["events.orders.>"])
        for event in (order, cancelled(order)):
            await admin.jetstream().publish(f"events.orders.{type(event).__name__}", on_the_bus(event))

        async def acknowledged() -> bool:
            found = await store.order(world.service.database, order.id)
            if found is None or found.status != "cancelled":
                return False
            info = await admin.jetstream().consumer_info("orders", "payments")
            return (info.num_ack_pending, info.num_pending) == (0, 0)

        await eventually(acknowledged, "both events are acknowledged", 20)
    finally:
        await admin.close()


async def test_g12_an_event_ahead_of_its_order_waits_for_it(world: World) -> None:
    order = ordered(world.bob_id)
    [gap] = await world.hear(cancelled(order))
    assert (gap.producer, gap.aggregate, gap.have_version) == ("orders", order.id, -1)
    assert not await world.hear(order, cancelled(order))
    assert await replica(world, order) == ("cancelled", 1)


async def test_g12_an_event_that_skips_one_waits_for_the_one_between(world: World) -> None:
    order = await world.order()
    [gap] = await world.hear(cancelled(order, version=2, reason="payment_failed"))
    assert gap.have_version == 0
    assert await replica(world, order) == ("created", 0)
    await world.pay(order)
    payment = await world.payment(order)
    assert not await world.hear(awaiting(order, payment.id), cancelled(order, version=2, reason="payment_failed"))
    assert await replica(world, order) == ("cancelled", 2)


async def test_g13_each_event_many_times_is_as_good_as_once(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    inbox = Inbox("payments", world.service.database, world.service.bus, SERVICE.all_heard)
    # Under the same id, and (after a restored backup) under ids of their own.
    same = [unwrap(on_the_bus(each)) for each in (order, awaiting(order, payment.id))]
    for events in (same, same, [unwrap(on_the_bus(each)) for each in (order, awaiting(order, payment.id))]):
        async with world.service.database.transaction() as tx:
            assert not await inbox.take_in(tx, events)
        await world.state(order, "captured")
    assert await world.told() == ["PaymentAuthorized", "PaymentCreated"]
    intent = await world.intent(order)
    assert intent.amount_received == 1999


@pytest.mark.parametrize("sequence", list(itertools.permutations(range(3))))
async def test_g13_events_in_any_sequence_lead_to_the_same(world: World, sequence: tuple[int, ...]) -> None:
    order = ordered(world.bob_id)
    events: list[Event] = [order, awaiting(order, ids.new_id()), cancelled(order, version=2, reason="payment_failed")]
    waiting = [events[index] for index in sequence]
    while waiting:
        for event in list(waiting):
            if not await world.hear(event):
                waiting.remove(event)
    assert await replica(world, order) == ("cancelled", 2)


async def test_s09_money_held_when_the_order_is_cancelled_goes_back(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    await world.hear(cancelled(order, reason="expired"))
    await world.state(order, "voided")
    intent = await world.intent(order)
    assert (intent.status, intent.amount_received) == ("canceled", 0)
    assert await world.told() == ["PaymentAuthorized", "PaymentVoided"]


async def test_s09_money_held_after_the_order_was_cancelled_goes_back(world: World) -> None:
    """The order ends while the bank is being asked."""
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "delay_ms": 300}])
    paying = world.pay(order)
    answering = eventually(lambda: _begun(world, order), "the payment has begun")
    task, _ = await _both(paying, answering, lambda: world.hear(cancelled(order, reason="expired")))
    assert task.status_code == 400
    await world.state(order, "voided")
    assert (await world.intent(order)).status == "canceled"
    assert await world.told() == ["PaymentVoided"]


async def test_a_late_authentication_goes_back(world: World) -> None:
    order = await world.order()
    await world.pay(order, "pm_card_authenticationRequired")
    intent = await world.intent(order)
    await world.sandbox.inject(requests=[{"operations": ["cancel_intent"], "answer": "internal_error", "count": 3}])
    await world.hear(cancelled(order, reason="expired"))
    await world.sandbox.authenticate(intent)
    await world.state(order, "voided")
    assert (await world.intent(order)).status == "canceled"
    assert await world.told() == ["PaymentVoided"]


async def test_a_rejected_payment_goes_back_and_the_order_may_be_paid_again(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    await world.hear(rejected(order, (await world.payment(order)).id))
    await world.state(order, "voided")
    assert await world.told() == ["PaymentAuthorized", "PaymentVoided"]
    assert (await world.pay(order)).status_code == 201


async def test_a_rejected_payment_that_was_taken_is_refunded(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    await world.hear(awaiting(order, payment.id))
    await world.state(order, "captured")
    await world.hear(rejected(order, payment.id))
    await world.state(order, "refunded")
    [refund] = (await world.sandbox.client.v1.refunds.list_async()).data
    assert (refund.amount, refund.payment_intent) == (1999, payment.stripe_id)
    assert await world.told() == ["PaymentAuthorized", "PaymentCreated", "PaymentRefunded"]
    await world.hear(rejected(order, payment.id))
    assert len((await world.sandbox.client.v1.refunds.list_async()).data) == 1


async def test_money_taken_by_hand_before_orders_decided_follows_their_decision(world: World) -> None:
    """Somebody presses Capture in Stripe's dashboard."""
    accepted, refused = await world.order(), await world.order()
    for order in (accepted, refused):
        await world.pay(order)
        await world.sandbox.client.v1.payment_intents.capture_async((await world.intent(order)).id)
    await world.hear(awaiting(accepted, (await world.payment(accepted)).id), cancelled(refused))
    await world.state(accepted, "captured")
    await world.state(refused, "refunded")
    assert await world.told(accepted) == ["PaymentAuthorized", "PaymentCreated"]
    assert await world.told(refused) == ["PaymentAuthorized", "PaymentRefunded"]


async def test_an_authorisation_lost_before_its_capture_fails_the_payment(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    await world.sandbox.inject(webhooks=[{"kind": "lose", "count": 0}])
    await world.sandbox.expire_authorization(str(payment.stripe_id))
    await world.hear(awaiting(order, payment.id))
    failed = await world.state(order, "failed")
    assert failed.reason == "The bank no longer holds the money"
    assert await world.told() == ["PaymentAuthorized", "PaymentFailed"]


async def test_orders_that_await_a_payment_nobody_knows_are_told_that_it_failed(world: World) -> None:
    order = await world.order()
    await world.hear(awaiting(order, ids.new_id()))
    assert await world.told() == ["PaymentFailed"]


async def test_orders_that_await_a_payment_given_up_are_told_that_it_failed(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    await world.hear(rejected(order, payment.id))
    await world.hear(awaiting(order, payment.id))
    await world.state(order, "voided")
    assert sorted(await world.told()) == ["PaymentAuthorized", "PaymentFailed", "PaymentVoided"]


async def test_a_capture_is_wanted_once_however_often_it_is_asked_for(world: World) -> None:
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    await world.sandbox.inject(requests=[{"operations": ["capture_intent"], "delay_ms": 100, "count": 0}])
    await world.hear(awaiting(order, payment.id))
    for _ in range(5):
        await store.look_again(world.service.database, [payment.id])
        world.service.database.alarm("settle payments").set()
    await world.state(order, "captured")
    assert (await world.intent(order)).amount_received == 1999
    assert await world.told() == ["PaymentAuthorized", "PaymentCreated"]


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
async def test_the_database_itself_forbids_wrong_states(world: World, statement: str, complaint: str) -> None:
    order = await world.order()
    await world.pay(order)
    await world.hear(awaiting(order, (await world.payment(order)).id))
    await world.state(order, "captured")
    with pytest.raises(asyncpg.PostgresError, match=complaint):
        await world.service.database.execute(statement)


async def _begun(world: World, order: OrderCreated) -> bool:
    return bool(await world.payments(order))


async def _both(
    paying: Coroutine[Any, Any, T], waiting: Awaitable[object], then: Callable[[], Awaitable[U]]
) -> tuple[T, U]:
    """Start one, wait for the other, do a third, and return what the first gives."""
    task = asyncio.create_task(paying)
    await waiting
    done = await then()
    return await task, done


async def _admin_bus(url: str) -> Client:
    place = url.rpartition("@")[2]
    return await nats.connect(f"nats://admin:admin-password@{place}")
