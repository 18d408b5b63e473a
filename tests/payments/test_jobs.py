"""Settlement and reconciliation while the provider fails, is slow or does not respond: nobody pays twice."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest

from admitone.events import OrderCreated
from admitone.kernel import ids
from admitone.local.nats import Nats
from admitone.local.server import free_port
from admitone.payments import gateway, jobs, model, store
from admitone.payments.beginning import Begun, PaymentRequest
from admitone.payments.model import Authorized, Payment
from tests.engines import Databases
from tests.payments.support import VISA, World, awaiting, cancelled, running_world
from tests.stripe_sandbox.running import authorized, running_sandbox
from tests.support import eventually

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time-outs of requests to the provider, and the delays of retries."""
    monkeypatch.setattr(gateway, "_AUTHORIZE_SECONDS", 0.3)
    monkeypatch.setattr(gateway, "_TIMEOUT", httpx.Timeout(0.25))
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
async def test_g15_a_payment_without_a_response_settles_by_itself_as_one_charge(
    impatient: None, world_without_webhooks: World, fault: dict[str, Any]
) -> None:
    world = world_without_webhooks
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "count": 3, **fault}])
    response = await world.pay(order)
    assert response.status_code == 202, response.text
    assert response.json()["status"] == "pending"
    assert "stripeId" not in response.json()
    await world.state(order, "authorized")
    again = await world.pay(order)
    assert (again.status_code, again.json()["status"]) == (201, "authorized")
    assert again.json()["id"] == response.json()["id"]
    assert [intent.status for intent in await world.intents()] == ["requires_capture"]
    assert await world.published() == ["PaymentAuthorized"]


async def test_g15_an_error_that_stripe_repeats_is_settled_by_its_list(
    impatient: None, world_without_webhooks: World
) -> None:
    """The money is held, and Stripe repeats its internal error for the idempotency key."""
    world = world_without_webhooks
    order = await world.order()
    await world.sandbox.inject(
        requests=[{"operations": ["create_intent"], "answer": "internal_error", "when": "after"}]
    )
    assert (await world.pay(order)).status_code == 202
    await world.state(order, "authorized")
    assert await world.published() == ["PaymentAuthorized"]
    assert len(await world.intents()) == 1


async def test_g15_a_payment_that_never_reached_the_provider_fails_in_the_end(
    impatient: None, world_without_webhooks: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_IN_FLIGHT", timedelta(seconds=0.5))
    world = world_without_webhooks
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "answer": "internal_error", "count": 0}])
    assert (await world.pay(order)).status_code == 202
    assert (await world.pay(order, "tok_mastercard")).status_code == 409
    failed = await world.state(order, "failed")
    assert failed.reason == "The payment was not completed"
    await world.sandbox.clear_faults()
    async with world.service.database.transaction() as tx:
        await store.make_due(tx, [failed.id])
    await eventually(lambda: _is_at_rest(world, order), "the failed payment was checked once more")
    assert not await world.intents()
    assert (await world.pay(order)).status_code == 201


async def test_g15_an_authorization_that_takes_effect_late_is_voided(
    impatient: None, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request was given up long ago, and the buyer pays with another attempt."""
    monkeypatch.setattr(jobs, "_IN_FLIGHT", timedelta(seconds=0.5))
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "delay_ms": 2000, "count": 0}])
    assert (await world.pay(order)).status_code == 202
    await world.state(order, "failed")
    await world.sandbox.clear_faults()
    assert (await world.pay(order)).status_code == 201
    await eventually(lambda: _are(world, ["canceled", "requires_capture"]), "the late authorization is voided")
    assert [payment.state for payment in await world.payments(order)] == ["failed", "authorized"]
    assert await world.published() == ["PaymentAuthorized"]


async def test_g15_an_order_that_ends_before_the_response_charges_nobody(
    impatient: None, world_without_webhooks: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_IN_FLIGHT", timedelta(seconds=0.5))
    world = world_without_webhooks
    held, absent = await world.order(), await world.order()
    await world.sandbox.inject(
        requests=[{"operations": ["create_intent"], "answer": "drop", "when": "after", "count": 3}]
    )
    assert (await world.pay(held)).status_code == 202
    await world.consume(cancelled(held))
    await world.state(held, "voided", "authorized")
    await world.state(held, "voided")
    assert (await world.intent(held)).status == "canceled"
    await world.sandbox.clear_faults()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "answer": "drop", "count": 0}])
    assert (await world.pay(absent)).status_code == 202
    await world.consume(cancelled(absent))
    await world.state(absent, "voided")
    assert not await world.intents(absent)


@pytest.fixture
def provider_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the provider's clock be behind ours, so that our clock is ahead."""
    monkeypatch.setattr("stripe_sandbox.app.time", SimpleNamespace(time=lambda: time.time() - 300))


async def test_g15_a_hold_is_found_while_the_search_fails_and_the_clocks_differ(
    impatient: None, provider_behind: None, world_without_webhooks: World
) -> None:
    world = world_without_webhooks
    order = await world.order()
    await world.sandbox.inject(
        requests=[
            {"operations": ["create_intent"], "answer": "drop", "when": "after", "count": 3},
            {"operations": ["search_intents"], "answer": "internal_error", "count": 0},
        ]
    )
    assert (await world.pay(order)).status_code == 202
    await world.consume(cancelled(order))
    await world.state(order, "voided")
    assert (await world.intent(order)).status == "canceled"


@pytest.mark.parametrize("operation", ["capture_intent", "retrieve_intent"])
@pytest.mark.parametrize("response", ["internal_error", "drop", "too_many_requests"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_g15_a_capture_is_retried_until_it_succeeds_once(
    impatient: None, world_without_webhooks: World, operation: str, response: str, when: str
) -> None:
    world = world_without_webhooks
    order = await world.order()
    await world.pay(order)
    await world.sandbox.inject(requests=[{"operations": [operation], "answer": response, "when": when, "count": 4}])
    await world.consume(awaiting(order, (await world.payment(order)).id))
    await world.state(order, "captured")
    assert (await world.intent(order)).amount_received == 1999
    assert await world.published() == ["PaymentAuthorized", "PaymentCreated"]


async def test_g15_a_capture_that_is_refused_for_good_fails_the_payment(
    impatient: None, world_without_webhooks: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_RETRY_SECONDS_MAX", 0.1)
    world = world_without_webhooks
    order = await world.order()
    await world.pay(order)
    await world.sandbox.inject(requests=[{"operations": ["capture_intent"], "answer": "refused", "count": 0}])
    await world.consume(awaiting(order, (await world.payment(order)).id))
    failed = await world.state(order, "failed")
    assert failed.reason == "The payment could not be completed"
    assert (await world.intent(order)).status == "canceled"
    assert await world.published() == ["PaymentAuthorized", "PaymentFailed"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_g15_a_refund_is_retried_until_it_succeeds_once(
    impatient: None, world_without_webhooks: World, when: str
) -> None:
    world = world_without_webhooks
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    await world.consume(awaiting(order, payment.id))
    await world.state(order, "captured")
    await world.sandbox.inject(
        requests=[{"operations": ["create_refund"], "answer": "internal_error", "when": when, "count": 2}]
    )
    await world.consume(cancelled(order, version=2, reason="payment_failed"))
    await world.state(order, "refunded")
    assert [refund.amount for refund in (await world.sandbox.client.v1.refunds.list_async()).data] == [1999]
    assert await world.published() == ["PaymentAuthorized", "PaymentCreated", "PaymentRefunded"]


async def test_g15_payments_wait_while_the_provider_is_unreachable(
    impatient: None, databases: Databases, start_nats: Callable[..., Nats]
) -> None:
    port = free_port()
    async with running_world(databases, start_nats, stripe_url=f"http://127.0.0.1:{port}") as world:
        order = await world.order()
        response = await world.pay(order)
        assert (response.status_code, response.json()["status"]) == (202, "pending")
        listed = (await world.bob.get("/api/payments", params={"orderId": str(order.id)})).json()
        assert listed["payments"][0]["status"] == "pending"
        async with running_sandbox(port=port):
            await world.state(order, "authorized")
        assert await world.published() == ["PaymentAuthorized"]


async def test_a_payment_of_a_killed_process_is_settled_by_another(world_without_webhooks: World) -> None:
    """The row was written and the response was never applied."""
    world = world_without_webhooks
    order = await world.order()
    resources = world.service.resources
    begun = await resources.begin(PaymentRequest(ids.new_id(), order.id, world.bob_id, "tok_visa", None))
    assert isinstance(begun, Begun)
    assert begun.kind == "new"
    held = await resources.gateway.authorize(begun.payment, "https://tickets.example/")
    assert isinstance(held, Authorized)
    await world.service.database.execute("UPDATE payment SET due_at = instant()")
    await world.state(order, "authorized")
    assert (await world.intent(order)).id == held.stripe_id


async def test_concurrent_requests_for_a_slow_payment_get_its_response(world: World) -> None:
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "delay_ms": 400}])
    bob = world.bob
    responses = await asyncio.gather(*(world.pay(order, client=bob) for _ in range(5)))
    assert {(response.status_code, response.content) for response in responses} == {(201, responses[0].content)}


async def test_two_processes_settle_each_payment_once(world: World) -> None:
    """The background job of a second process uses the same database."""
    second = asyncio.create_task(jobs.settle_payments(world.service))
    orders = [await world.order(1000 + number) for number in range(20)]
    bob = world.bob
    await asyncio.gather(*(world.pay(order, client=bob) for order in orders))
    await world.consume(*[awaiting(order, (await world.payment(order)).id) for order in orders])
    for order in orders:
        await world.state(order, "captured")
    second.cancel()
    assert sorted(await world.published()) == ["PaymentAuthorized"] * 20 + ["PaymentCreated"] * 20


async def test_a_wrong_secret_key_does_not_fail_a_payment(
    impatient: None, databases: Databases, start_nats: Callable[..., Nats]
) -> None:
    async with running_world(databases, start_nats, stripe_secret_key="sk_test_wrong") as world:
        order = await world.order()
        response = await world.pay(order)
        assert response.status_code == 202
        assert (await world.payment(order)).state == "created"


NOTHING_FOUND: dict[str, Any] = {"answer": "not_found", "count": 0}


@pytest.mark.parametrize("wanted", ["capture", "void", "refund"])
async def test_a_provider_that_knows_no_payment_decides_nothing(
    impatient: None, world_without_webhooks: World, wanted: str
) -> None:
    """Every request gets a 404, as with the key of another account: what is wanted stays wanted."""
    world = world_without_webhooks
    order = await world.order()
    await world.pay(order)
    payment = await world.payment(order)
    if wanted == "refund":
        await world.consume(awaiting(order, payment.id))
        await world.state(order, "captured")
    await world.sandbox.inject(requests=[NOTHING_FOUND])
    decided = awaiting(order, payment.id) if wanted == "capture" else cancelled(order, 2 if wanted == "refund" else 1)
    await world.consume(decided)
    await eventually(lambda: _was_tried(world, order, 4), "it was tried several times")
    refused = await world.payment(order)
    assert (refused.state, refused.wanted) == ("captured" if wanted == "refund" else "authorized", wanted)
    await world.sandbox.clear_faults()
    await world.state(order, {"capture": "captured", "void": "voided", "refund": "refunded"}[wanted])


async def test_a_refused_request_to_authorize_is_not_a_declined_card(
    impatient: None, world_without_webhooks: World
) -> None:
    world = world_without_webhooks
    order = await world.order()
    await world.sandbox.inject(requests=[NOTHING_FOUND])
    assert (await world.pay(order)).status_code == 202
    await world.sandbox.clear_faults()
    await world.state(order, "authorized")


async def test_an_authenticated_payment_is_noticed_without_webhooks(
    world_without_webhooks: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_CHECK_AGAIN", timedelta(seconds=0.2))
    world = world_without_webhooks
    order = await world.order()
    await world.pay(order, "pm_card_authenticationRequired")
    await world.sandbox.authenticate(await world.intent(order))
    await world.state(order, "authorized")
    assert await world.published() == ["PaymentAuthorized"]


async def test_an_authenticated_payment_is_noticed_when_its_buyer_comes_back(
    world_without_webhooks: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webhook is lost; the page to which the bank leads back lists the payments of the order."""
    monkeypatch.setattr("admitone.payments.api._CHECKED_SECONDS", 0.0)
    world = world_without_webhooks
    order = await world.order()
    await world.pay(order, "pm_card_authenticationRequired")
    await world.sandbox.authenticate(await world.intent(order))
    assert (await world.payment(order)).state == "requires_action"
    listed = await world.bob.get("/api/payments", params={"orderId": str(order.id)})
    assert listed.json()["payments"][0]["status"] == "requires_action"
    await world.state(order, "authorized")


async def test_a_payment_that_was_just_checked_is_not_checked_for_its_buyer(world_without_webhooks: World) -> None:
    world = world_without_webhooks
    order = await world.order()
    await world.pay(order, "pm_card_authenticationRequired")
    before = await world.payment(order)
    assert (await world.bob.get("/api/payments", params={"orderId": str(order.id)})).status_code == 200
    assert await world.payment(order) == before


async def test_an_authenticated_payment_is_noticed_before_the_deadline_of_its_order(
    world_without_webhooks: World,
) -> None:
    world = world_without_webhooks
    order = await world.order(seconds=11)
    await world.pay(order, "pm_card_authenticationRequired")
    await world.sandbox.authenticate(await world.intent(order))
    await world.state(order, "authorized")
    assert await world.published() == ["PaymentAuthorized"]


async def test_reconciliation_finds_what_no_webhook_reported(
    provider_behind: None, world_without_webhooks: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The intent of a failed payment was confirmed with another card elsewhere."""
    monkeypatch.setattr(jobs, "_SETTLES_WITHIN", timedelta(seconds=-5))
    world = world_without_webhooks
    assert await jobs.reconcile(world.service) == 0
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
    await eventually(lambda: _are(world, ["canceled"]), "the authorization is voided")
    assert await world.published() == []
    await world.state(order, "failed")
    await world.service.database.execute("UPDATE installation SET reconciled_until = instant() - interval '1 hour'")
    assert await jobs.reconcile(world.service) == 0


async def lost_payment(world: World, order: OrderCreated, token: str = VISA) -> Payment:
    """Pay an order; the database does not know of it."""
    lost = Payment(
        id=ids.new_id(),
        order_id=order.id,
        attempt=1,
        buyer_id=world.bob_id,
        amount_cents=1999,
        currency="usd",
        token=token,
        idempotency_key=None,
        created_at=order.expires_at,
        due_at=None,
    )
    await world.service.resources.gateway.authorize(lost, "https://tickets.example/")
    return lost


async def test_intents_that_a_restored_database_lost_are_canceled_only_when_an_operator_allowed_it(
    world_without_webhooks: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_SETTLES_WITHIN", timedelta(seconds=-5))
    world = world_without_webhooks
    order = await world.order()
    await lost_payment(world, order)
    await world.consume(cancelled(order))
    foreign = await authorized(world.sandbox.client)  # of another installation with the same account
    unknown = await world.intent(order)

    async def statuses() -> dict[str, str]:
        await jobs.reconcile(world.service)
        await jobs.review_unknown_intents(world.service)
        return {intent.id: intent.status for intent in await world.intents()}

    assert await statuses() == {foreign.id: "requires_capture", unknown.id: "requires_capture"}
    assert await store.unknown_intents(world.service.database) == 1
    await owner(world, "UPDATE installation SET cancel_unknown_before = instant() - interval '1 minute'")
    assert (await statuses())[unknown.id] == "requires_capture"
    await owner(world, "UPDATE installation SET cancel_unknown_before = instant() + interval '1 minute'")
    assert await statuses() == {foreign.id: "requires_capture", unknown.id: "canceled"}
    assert await store.unknown_intents(world.service.database) == 0


@pytest.mark.parametrize("token", [VISA, "pm_card_authenticationRequired"])
async def test_a_lost_payment_of_an_order_that_can_be_paid_is_rebuilt(
    world_without_webhooks: World, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """Its buyer may be at the bank: the payment goes on as if the database had not lost it."""
    monkeypatch.setattr(jobs, "_SETTLES_WITHIN", timedelta(seconds=-5))
    world = world_without_webhooks
    order = await world.order()
    lost = await lost_payment(world, order, token)
    await owner(world, "UPDATE installation SET cancel_unknown_before = instant() + interval '1 minute'")
    for _ in range(2):
        await jobs.reconcile(world.service)
        await jobs.review_unknown_intents(world.service)
    if token != VISA:
        await world.state(order, "requires_action")
        await world.sandbox.authenticate(await world.intent(order))
        await world.service.database.execute("UPDATE payment SET due_at = instant()")
    await world.state(order, "authorized")
    assert (await world.payment(order)).id == lost.id
    assert await world.published() == ["PaymentAuthorized"]
    await world.consume(awaiting(order, lost.id))
    await world.state(order, "captured")
    assert await store.unknown_intents(world.service.database) == 0


async def owner(world: World, sql: str) -> None:
    """Change the database as its owner: the service may not."""
    url = httpx.URL(world.service.settings.database_url("payments"))
    owned = url.copy_with(username="payments_migrator", password="payments-migrator-password")
    connection = await asyncpg.connect(str(owned))
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def _was_tried(world: World, order: OrderCreated, times: int) -> bool:
    return (await world.payment(order)).tries >= times


async def _is_at_rest(world: World, order: OrderCreated) -> bool:
    return all(payment.due_at is None for payment in await world.payments(order))


async def _are(world: World, statuses: list[str]) -> bool:
    return sorted(intent.status for intent in await world.intents()) == statuses
