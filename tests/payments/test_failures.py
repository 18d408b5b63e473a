"""When the provider fails, is slow, or says nothing: what is unknown is never taken for a no, and nobody pays twice."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from admitone.events import OrderCreated
from admitone.kernel import ids
from admitone.local.nats import Nats
from admitone.local.server import free_port
from admitone.payments import jobs, model, store, transport
from admitone.payments.model import Payment
from admitone.payments.paying import Ask
from tests.engines import Databases
from tests.payments.support import World, awaiting, cancelled, running_world
from tests.stripe_sandbox.running import authorized, running_sandbox
from tests.support import eventually

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on answers sooner than a buyer would."""
    monkeypatch.setattr("admitone.payments.gateway._AUTHORISE_SECONDS", 0.3)
    monkeypatch.setattr(transport, "_ANSWER_SECONDS", 0.25)
    monkeypatch.setattr(model, "_RETRY_SECONDS", 0.05)


@pytest.mark.parametrize(
    "fault",
    [
        {"answer": "internal_error", "when": "before"},
        {"answer": "drop", "when": "before"},
        {"answer": "drop", "when": "after"},
        {"answer": "too_many_requests", "when": "before"},
        {"answer": "none", "when": "before", "delay_ms": 600},
        {"answer": "none", "when": "after", "delay_ms": 600},
    ],
)
async def test_g15_a_payment_without_an_answer_settles_by_itself_as_one_charge(
    impatient: None, deaf_world: World, fault: dict[str, Any]
) -> None:
    world = deaf_world
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "count": 3, **fault}])
    answer = await world.pay(order)
    assert answer.status_code == 202, answer.text
    assert answer.json()["status"] == "pending"
    assert "stripeId" not in answer.json()
    await world.state(order, "authorized")
    again = await world.pay(order)
    assert (again.status_code, again.json()["status"]) == (201, "authorized")
    assert again.json()["id"] == answer.json()["id"]
    assert [intent.status for intent in await world.intents()] == ["requires_capture"]
    assert await world.told() == ["PaymentAuthorized"]


async def test_g15_an_answer_that_is_500_for_good_is_looked_up_in_the_books(impatient: None, deaf_world: World) -> None:
    """The money is held, and the idempotency key says "500" about it from now on."""
    world = deaf_world
    order = await world.order()
    await world.sandbox.inject(
        requests=[{"operations": ["create_intent"], "answer": "internal_error", "when": "after"}]
    )
    assert (await world.pay(order)).status_code == 202
    await world.state(order, "authorized")
    assert await world.told() == ["PaymentAuthorized"]
    assert len(await world.intents()) == 1


async def test_g15_a_payment_that_never_reached_the_provider_fails_in_the_end(
    impatient: None, deaf_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_ON_ITS_WAY", timedelta(seconds=0.5))
    world = deaf_world
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "answer": "internal_error", "count": 0}])
    assert (await world.pay(order)).status_code == 202
    assert (await world.pay(order, "tok_mastercard")).status_code == 409
    failed = await world.state(order, "failed")
    assert failed.reason == "The payment was not completed"
    await world.sandbox.clear_faults()
    await store.look_again(world.service.database, [failed.id])
    await eventually(lambda: _is_at_rest(world, order), "the failed payment was looked at once more")
    assert not await world.intents()
    assert (await world.pay(order)).status_code == 201


async def test_g15_a_request_that_takes_effect_after_all_gives_its_money_back(
    impatient: None, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long after we gave up on it, and while the buyer pays with another attempt."""
    monkeypatch.setattr(jobs, "_ON_ITS_WAY", timedelta(seconds=0.5))
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "delay_ms": 2000, "count": 0}])
    assert (await world.pay(order)).status_code == 202
    await world.state(order, "failed")
    await world.sandbox.clear_faults()
    assert (await world.pay(order)).status_code == 201
    await eventually(lambda: _are(world, ["canceled", "requires_capture"]), "the late hold is given back")
    assert [payment.state for payment in await world.payments(order)] == ["failed", "authorized"]
    assert await world.told() == ["PaymentAuthorized"]


async def test_g15_an_order_that_ends_while_the_answer_is_out_charges_nobody(
    impatient: None, deaf_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_ON_ITS_WAY", timedelta(seconds=0.5))
    world = deaf_world
    held, absent = await world.order(), await world.order()
    await world.sandbox.inject(
        requests=[{"operations": ["create_intent"], "answer": "drop", "when": "after", "count": 3}]
    )
    assert (await world.pay(held)).status_code == 202
    await world.hear(cancelled(held))
    await world.state(held, "voided", "authorized")
    await world.state(held, "voided")
    assert (await world.intent(held)).status == "canceled"
    await world.sandbox.clear_faults()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "answer": "drop", "count": 0}])
    assert (await world.pay(absent)).status_code == 202
    await world.hear(cancelled(absent))
    await world.state(absent, "voided")
    assert not await world.intents(absent)


@pytest.mark.parametrize("operation", ["capture_intent", "retrieve_intent"])
@pytest.mark.parametrize("answer", ["internal_error", "drop", "too_many_requests"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_g15_a_capture_that_fails_is_tried_until_the_money_is_taken_once(
    impatient: None, deaf_world: World, operation: str, answer: str, when: str
) -> None:
    world = deaf_world
    order = await world.order()
    await world.pay(order)
    await world.sandbox.inject(requests=[{"operations": [operation], "answer": answer, "when": when, "count": 4}])
    await world.hear(awaiting(order, (await world.payment(order)).id))
    await world.state(order, "captured")
    assert (await world.intent(order)).amount_received == 1999
    assert await world.told() == ["PaymentAuthorized", "PaymentCreated"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_g15_a_refund_that_fails_is_tried_until_the_money_is_back_once(
    impatient: None, deaf_world: World, when: str
) -> None:
    world = deaf_world
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    await world.hear(awaiting(order, payment.id))
    await world.state(order, "captured")
    await world.sandbox.inject(
        requests=[{"operations": ["create_refund"], "answer": "internal_error", "when": when, "count": 2}]
    )
    await world.hear(cancelled(order, version=2, reason="payment_failed"))
    await world.state(order, "refunded")
    assert [refund.amount for refund in (await world.sandbox.client.v1.refunds.list_async()).data] == [1999]
    assert await world.told() == ["PaymentAuthorized", "PaymentCreated", "PaymentRefunded"]


async def test_g15_while_the_provider_is_away_payments_wait_and_then_go_through(
    impatient: None, databases: Databases, start_nats: Callable[..., Nats]
) -> None:
    port = free_port()
    async with running_world(databases, start_nats, stripe_url=f"http://127.0.0.1:{port}") as world:
        order = await world.order()
        answer = await world.pay(order)
        assert (answer.status_code, answer.json()["status"]) == (202, "pending")
        listed = (await world.bob.get("/api/payments", params={"orderId": str(order.id)})).json()
        assert listed["payments"][0]["status"] == "pending"
        async with running_sandbox(port=port):
            await world.state(order, "authorized")
        assert await world.told() == ["PaymentAuthorized"]


async def test_a_payment_whose_process_died_is_finished_by_the_next(deaf_world: World) -> None:
    """The row was written, the answer never came back: as after a kill in between."""
    world = deaf_world
    order = await world.order()
    own = world.service.own
    begun = await own.begin(Ask(order.id, world.bob_id, "tok_visa", None))
    assert begun.kind == "new"
    held = await own.stripe.authorise(begun.payment, "https://tickets.example/")
    await world.service.database.execute("UPDATE payment SET due_at = instant()")
    await world.state(order, "authorized")
    assert (await world.intent(order)).id == held.stripe_id


async def test_those_who_follow_a_slow_payment_get_its_answer(world: World) -> None:
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "delay_ms": 400}])
    bob = world.bob
    answers = await asyncio.gather(*(world.pay(order, client=bob) for _ in range(5)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}


async def test_two_processes_settle_each_payment_once(world: World) -> None:
    """A second replica's background job runs on the same database."""
    second = asyncio.create_task(jobs.settle_payments(world.service))
    orders = [await world.order(1000 + number) for number in range(20)]
    bob = world.bob
    await asyncio.gather(*(world.pay(order, client=bob) for order in orders))
    await world.hear(*[awaiting(order, (await world.payment(order)).id) for order in orders])
    for order in orders:
        await world.state(order, "captured")
    second.cancel()
    assert sorted(await world.told()) == ["PaymentAuthorized"] * 20 + ["PaymentCreated"] * 20


async def test_the_key_of_another_account_is_no_reason_to_refuse_a_buyer(
    impatient: None, databases: Databases, start_nats: Callable[..., Nats]
) -> None:
    async with running_world(databases, start_nats, stripe_secret_key="sk_test_wrong") as world:
        order = await world.order()
        answer = await world.pay(order)
        assert answer.status_code == 202
        assert (await world.payment(order)).state == "created"


async def test_without_webhooks_a_confirmed_payment_is_noticed(
    deaf_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_LOOK_AGAIN", timedelta(seconds=0.2))
    world = deaf_world
    order = await world.order()
    await world.pay(order, "pm_card_authenticationRequired")
    await world.sandbox.authenticate(await world.intent(order))
    await world.state(order, "authorized")
    assert await world.told() == ["PaymentAuthorized"]


async def test_a_comparison_with_the_provider_finds_what_was_never_told(
    deaf_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed payment whose intent somebody confirmed with another card, out of our sight."""
    monkeypatch.setattr(jobs, "_SETTLES_WITHIN", timedelta(seconds=-5))
    world = deaf_world
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["cancel_intent"], "answer": "drop", "count": 0}])
    await world.pay(order, "tok_chargeDeclined")
    await world.service.database.execute("UPDATE payment SET wanted = NULL, due_at = NULL")
    intent = await world.intent(order)
    await world.sandbox.clear_faults()
    await world.sandbox.client.v1.payment_intents.confirm_async(
        intent.id, {"payment_method": "pm_card_visa", "return_url": "https://tickets.example/"}
    )
    assert await jobs.reconcile(world.service) == 1
    await eventually(lambda: _are(world, ["canceled"]), "what was held is given back")
    assert await world.told() == []
    await world.state(order, "failed")
    await world.service.database.execute("UPDATE installation SET reconciled_until = instant() - interval '1 hour'")
    assert await jobs.reconcile(world.service) == 0


async def test_a_comparison_closes_what_a_restored_database_forgot(
    deaf_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_SETTLES_WITHIN", timedelta(seconds=-5))
    world = deaf_world
    order = await world.order()
    own = world.service.own
    forgotten = Payment(
        id=ids.new_id(),
        order_id=order.id,
        attempt=1,
        user_id=world.bob_id,
        amount_cents=1999,
        currency="usd",
        token="tok_visa",
        request_key=None,
        created_at=order.expires_at,
        due_at=None,
    )
    await own.stripe.authorise(forgotten, "https://tickets.example/")
    stranger = await authorized(world.sandbox.client)  # of another installation on the same account
    assert await jobs.reconcile(world.service) == 1
    assert {intent.id: intent.status for intent in await world.intents()} == {
        stranger.id: "requires_capture",
        (await world.intent(order)).id: "canceled",
    }


async def _is_at_rest(world: World, order: OrderCreated) -> bool:
    return all(payment.due_at is None for payment in await world.payments(order))


async def _are(world: World, statuses: list[str]) -> bool:
    return sorted(intent.status for intent in await world.intents()) == statuses
