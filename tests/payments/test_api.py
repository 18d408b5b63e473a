"""Paying an order over HTTP: the requests, their responses, and what the provider holds afterwards."""

import asyncio
import json
from collections import Counter
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from admitone.kernel import ids
from admitone.payments.beginning import Begun, PaymentRequest
from admitone.payments.transitions import begin_payments
from tests.payments.support import World, awaiting, cancelled, ordered, running_world
from tests.support import messages_of

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content")


async def test_p01_an_unknown_order_cannot_be_paid(world: World) -> None:
    response = await world.pay(ordered(world.bob_id))
    assert response.status_code == 404
    assert messages_of(response) == [("Not Found", None)]


@pytest.mark.parametrize("order_id", [UUID(int=0), UUID(int=2**128 - 1), UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")])
async def test_p01_an_extreme_id_is_not_an_order(world: World, order_id: UUID) -> None:
    response = await world.bob.post("/api/payments", json={"orderId": str(order_id), "token": "tok_visa"})
    assert response.status_code == 404


async def test_a_payment_waits_for_an_order_made_a_moment_ago(world: World) -> None:
    order = ordered(world.bob_id)
    paying = asyncio.create_task(world.pay(order))
    await asyncio.sleep(0)
    await world.consume(order)
    assert (await paying).status_code == 201


async def test_p02_somebody_elses_order_cannot_be_paid(world: World) -> None:
    order = await world.order()
    response = await world.pay(order, client=world.sign_in("carol"))
    assert response.status_code == 403
    assert not await world.payments(order)


async def test_p03_a_cancelled_order_cannot_be_paid(world: World) -> None:
    order = await world.order()
    await world.consume(cancelled(order))
    response = await world.pay(order)
    assert response.status_code == 400
    assert messages_of(response) == [("This order is cancelled; nothing is charged", None)]
    assert not await world.intents()


async def test_an_expired_order_cannot_be_paid(world: World) -> None:
    order = await world.order(seconds=-1)
    response = await world.pay(order)
    assert response.status_code == 400
    assert messages_of(response) == [("The time to pay this order is over; nothing is charged", None)]


@pytest.mark.parametrize("token", ["tok_visa", "pm_card_mastercard"])
async def test_p04_a_valid_payment_holds_exactly_the_price_and_is_linked_to_its_intent(
    world: World, token: str
) -> None:
    order = await world.order(1999)
    response = await world.pay(order, token)
    assert response.status_code == 201, response.text
    payment, intent = await world.payment(order), await world.intent(order)
    assert json.loads(response.content, parse_float=Decimal) == {
        "id": str(payment.id),
        "orderId": str(order.id),
        "stripeId": intent.id,
        "status": "authorized",
        "amount": Decimal("19.99"),
        "currency": "usd",
        "attempt": 1,
        "createdAt": response.json()["createdAt"],
    }
    assert (intent.amount, intent.currency, intent.status) == (1999, "usd", "requires_capture")
    assert intent.metadata["payment_id"] == str(payment.id)
    assert await world.published() == ["PaymentAuthorized"]


async def test_p04_an_awaited_payment_is_captured(world: World) -> None:
    order = await world.order(1999)
    payment_id = (await world.pay(order)).json()["id"]
    payment = await world.payment(order)
    assert str(payment.id) == payment_id
    await world.consume(awaiting(order, payment.id))
    await world.state(order, "captured")
    intent = await world.intent(order)
    assert (intent.status, intent.amount_received) == ("succeeded", 1999)
    assert await world.published() == ["PaymentAuthorized", "PaymentCreated"]


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, [("OrderId must be provided", "orderId"), ("Token must be provided", "token")]),
        ({"token": "tok_visa"}, [("OrderId must be provided", "orderId")]),
        ({"orderId": "1", "token": "tok_visa"}, [("OrderId must be provided", "orderId")]),
        ({"orderId": {"$gt": ""}, "token": "tok_visa"}, [("OrderId must be provided", "orderId")]),
        ({"orderId": str(ids.new_id()), "token": ""}, [("Token must be provided", "token")]),
        ({"orderId": str(ids.new_id()), "token": ["tok_visa"]}, [("Token must be provided", "token")]),
        ({"orderId": str(ids.new_id()), "token": "tok_visa", "amount": 1}, [("Unknown field", None)]),
    ],
)
async def test_g06_every_invalid_field_is_reported(
    world: World, body: dict[str, object], errors: list[tuple[str, str | None]]
) -> None:
    response = await world.bob.post("/api/payments", json=body)
    assert response.status_code == 400
    assert messages_of(response) == errors


async def test_g05_payments_require_signing_in(world: World) -> None:
    async with world.app.client() as nobody:
        for response in (
            await nobody.post("/api/payments", json={}),
            await nobody.get("/api/payments", params={"orderId": str(ids.new_id())}),
        ):
            assert response.status_code == 401
            assert messages_of(response) == [("Not authorized", None)]


@pytest.mark.parametrize("key", ["", "a-key"])
async def test_s10_a_repeated_payment_is_one_charge(world: World, key: str) -> None:
    order = await world.order()
    first = await world.pay(order, key=key)
    again = await world.pay(order, key=key)
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    await world.consume(awaiting(order, (await world.payment(order)).id))
    await world.state(order, "captured")
    late = await world.pay(order, key=key)
    assert (late.status_code, late.json()) == (201, first.json())
    assert len(await world.intents(order)) == 1


@pytest.mark.parametrize("key", ["", "a-key"])
async def test_s10_a_payment_repeated_during_its_capture_is_one_charge(world: World, key: str) -> None:
    order = await world.order()
    first = await world.pay(order, key=key)
    await world.sandbox.inject(requests=[{"operations": ["capture_intent"], "delay_ms": 1000}])
    await world.consume(awaiting(order, (await world.payment(order)).id))
    again = await world.pay(order, key=key)
    assert (await world.payment(order)).wanted == "capture"
    assert (again.status_code, again.json()) == (201, first.json())
    assert (await world.pay(order, "tok_mastercard")).status_code == 409
    await world.state(order, "captured")
    assert len(await world.intents(order)) == 1


@pytest.mark.parametrize("keys", [("", ""), ("a-key", "a-key"), ("one", "other")])
async def test_s10_many_concurrent_requests_for_a_payment_are_one_charge(world: World, keys: tuple[str, str]) -> None:
    order = await world.order()
    bob = world.bob
    responses = await asyncio.gather(*(world.pay(order, client=bob, key=keys[number % 2]) for number in range(10)))
    assert {response.status_code for response in responses} == {201}
    assert len({response.content for response in responses}) == 1
    assert len(await world.intents()) == len(await world.payments(order)) == 1
    assert await world.published() == ["PaymentAuthorized"]


async def test_s10_concurrent_payments_of_many_orders_are_one_charge_each(world: World) -> None:
    orders = [ordered(world.bob_id, 1000 + number) for number in range(30)]
    await world.consume(*orders)
    bob = world.bob
    responses = await asyncio.gather(*(world.pay(order, client=bob) for order in [*orders, *orders]))
    assert {response.status_code for response in responses} == {201}
    assert sorted(intent.amount for intent in await world.intents()) == [1000 + number for number in range(30)]


async def test_repeated_requests_beyond_a_limit_do_not_wait_for_the_outcome(world: World) -> None:
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "delay_ms": 1500}])
    bob = world.bob
    responses = await asyncio.gather(*(world.pay(order, client=bob, key="a-key") for _ in range(110)))
    assert Counter(each.status_code for each in responses) == {201: 101, 202: 9}
    assert len(await world.intents()) == 1


async def test_an_idempotency_key_of_another_request_is_refused(world: World) -> None:
    first, second = await world.order(), await world.order()
    assert (await world.pay(first, key="a-key")).status_code == 201
    assert (await world.pay(second, key="a-key")).status_code == 422
    assert (await world.pay(first, "tok_mastercard", key="a-key")).status_code == 422
    assert not await world.payments(second)


async def test_one_key_used_at_once_for_many_orders_begins_one_payment(world: World) -> None:
    for number in range(5):
        orders = [ordered(world.bob_id) for _ in range(8)]
        await world.consume(*orders)
        requests = [PaymentRequest(ids.new_id(), each.id, world.bob_id, "tok_visa", f"key {number}") for each in orders]
        begun = await asyncio.gather(*(begin_payments(world.service.database, [each], 3) for each in requests))
        kinds = sorted(each.kind if isinstance(each, Begun) else type(each).__name__ for [each] in begun)
        assert kinds == ["IdempotencyKeyReused"] * 7 + ["new"]
    first, second = await world.order(), await world.order()
    bob = world.bob
    responses = await asyncio.gather(*(world.pay(each, client=bob, key="a-key") for each in (first, second)))
    assert sorted(each.status_code for each in responses) == [201, 422]


async def test_two_people_may_use_the_same_idempotency_key(world: World) -> None:
    carol_id = ids.new_id()
    hers = ordered(carol_id)
    await world.consume(hers)
    mine = await world.order()
    assert (await world.pay(mine, key="a-key")).status_code == 201
    assert (await world.pay(hers, client=world.sign_in("carol", carol_id), key="a-key")).status_code == 201


async def test_an_order_being_paid_is_not_paid_with_another_card(world: World) -> None:
    order = await world.order()
    assert (await world.pay(order, "tok_visa")).status_code == 201
    response = await world.pay(order, "tok_mastercard")
    assert response.status_code == 409
    assert messages_of(response) == [("This order is being paid already; do not pay again", None)]
    assert len(await world.intents()) == 1


async def test_s11_prices_are_captured_exactly(world: World) -> None:
    prices = [*range(50, 10_001, 97), 99, 100, 101, 999, 1001, 1999, 4035, 5799, 9999, 10_000]
    orders = [ordered(world.bob_id, price) for price in prices]
    for start in range(0, len(orders), 100):
        await world.consume(*orders[start : start + 100])
    bob, places = world.bob, asyncio.Semaphore(8)

    async def buy(order: Any) -> None:
        async with places:
            response = await world.pay(order, client=bob)
            assert response.status_code == 201, response.text
            shown = json.loads(response.content, parse_float=Decimal)["amount"]
            assert Decimal(shown) * 100 == order.ticket.price_cents
            [payment] = await world.payments(order)
            await world.consume(awaiting(order, payment.id))
            await world.state(order, "captured")

    await asyncio.gather(*(buy(order) for order in orders))
    taken = [
        each.amount_received
        async for each in (await world.sandbox.client.v1.payment_intents.list_async({"limit": 100})).auto_paging_iter()
    ]
    assert sorted(taken) == sorted(prices)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("tok_chargeDeclined", "Your card was declined."),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "Your card has insufficient funds."),
        ("pm_card_chargeDeclinedExpiredCard", "Your card has expired."),
    ],
)
async def test_s12_a_declined_card_is_explained_and_the_order_stays_payable(
    world: World, token: str, reason: str
) -> None:
    order = await world.order()
    response = await world.pay(order, token)
    assert response.status_code == 402
    assert messages_of(response) == [(reason, None)]
    assert await world.published() == []
    await world.state(order, "failed")
    assert [intent.status for intent in await world.intents()] == ["canceled"]
    assert (await world.pay(order, "tok_visa")).status_code == 201
    assert await world.published() == ["PaymentAuthorized"]


async def test_s12_the_payment_fails_with_the_last_attempt(world: World) -> None:
    order = await world.order()
    for left in (2, 1, 0):
        assert (await world.pay(order, "tok_chargeDeclined")).status_code == 402
        listed = (await world.bob.get("/api/payments", params={"orderId": str(order.id)})).json()
        assert listed["attemptsLeft"] == left
    assert await world.published() == ["PaymentFailed"]
    response = await world.pay(order, "tok_visa")
    assert response.status_code == 400
    assert await world.published() == ["PaymentFailed"]
    await world.consume(cancelled(order, reason="payment_failed"))
    assert (await world.pay(order, "tok_visa")).status_code == 400
    assert [payment.state for payment in await world.payments(order)] == ["failed"] * 3


async def test_s12_a_decline_repeated_with_its_key_is_not_a_new_attempt(world: World) -> None:
    order = await world.order()
    responses = [await world.pay(order, "tok_chargeDeclined", key="a-key") for _ in range(4)]
    assert {response.status_code for response in responses} == {402}
    assert len({response.content for response in responses}) == 1
    assert len(await world.payments(order)) == 1


async def test_s12_the_number_of_attempts_may_be_one(databases: Any, start_nats: Any) -> None:
    async with running_world(databases, start_nats, payment_attempts=1) as world:
        order = await world.order()
        assert (await world.pay(order, "tok_chargeDeclined")).status_code == 402
        assert await world.published() == ["PaymentFailed"]


async def test_a_token_that_names_no_card_is_invalid(world: World) -> None:
    order = await world.order()
    for token in ("tok_nobody", "pm_nobody", "ctoken_nobody", "anything"):
        response = await world.pay(await world.order(), token)
        assert response.status_code == 400, token
        assert messages_of(response) == [("Token is not valid", "token")]
    assert (await world.pay(order, "tok_visa")).status_code == 201


async def test_a_confirmation_token_of_the_payment_element_pays(world: World) -> None:
    order = await world.order()
    token = await world.sandbox.client.v1.test_helpers.confirmation_tokens.create_async(
        {"payment_method": "pm_card_visa", "return_url": "https://tickets.example/"}
    )
    assert (await world.pay(order, token.id)).status_code == 201


async def test_a_buyer_sees_every_attempt_and_nobody_else_does(world: World) -> None:
    order = await world.order()
    await world.pay(order, "tok_chargeDeclined")
    await world.pay(order, "tok_visa")
    response = await world.bob.get("/api/payments", params={"orderId": str(order.id)})
    assert response.status_code == 200
    shown = response.json()
    assert [each["status"] for each in shown["payments"]] == ["authorized", "failed"]
    assert shown["payments"][1]["reason"] == "Your card was declined."
    assert shown["attemptsLeft"] == 2
    carol = world.sign_in("carol")
    assert (await carol.get("/api/payments", params={"orderId": str(order.id)})).status_code == 403
    assert (await carol.get("/api/payments", params={"orderId": str(ids.new_id())})).status_code == 404
    assert (await carol.get("/api/payments")).status_code == 400
    assert (await carol.get("/api/payments", params={"orderId": "1"})).status_code == 400


async def test_a_payment_that_requires_action_is_authenticated_at_the_bank(world: World) -> None:
    order = await world.order()
    response = await world.pay(order, "pm_card_authenticationRequired")
    assert response.status_code == 201
    shown = response.json()
    assert shown["status"] == "requires_action"
    intent = await world.intent(order)
    assert shown["action"]["clientSecret"] == intent.client_secret
    assert shown["action"]["url"].startswith(world.sandbox.url)
    assert await world.published() == []
    back = await world.sandbox.authenticate(intent)
    assert back.headers["location"].startswith(f"{world.url}/orders/{order.id}?")
    await world.state(order, "authorized")
    assert await world.published() == ["PaymentAuthorized"]
    listed = (await world.bob.get("/api/payments", params={"orderId": str(order.id)})).json()
    assert listed["payments"][0]["status"] == "authorized"
    assert "action" not in listed["payments"][0]


async def test_a_failed_authentication_leaves_the_order_payable(world: World) -> None:
    order = await world.order()
    await world.pay(order, "pm_card_authenticationRequired")
    await world.sandbox.authenticate(await world.intent(order), "fail")
    failed = await world.state(order, "failed")
    assert failed.reason_code == "payment_intent_authentication_failure"
    assert (await world.pay(order, "tok_visa")).status_code == 201


async def test_a_buyer_may_use_another_card_instead_of_authenticating(world: World) -> None:
    order = await world.order()
    assert (await world.pay(order, "pm_card_authenticationRequired")).json()["status"] == "requires_action"
    response = await world.pay(order, "tok_visa")
    assert (response.status_code, response.json()["status"]) == (201, "authorized")
    assert [payment.state for payment in await world.payments(order)] == ["voided", "authorized"]
    assert [intent.status for intent in await world.intents()] == ["requires_capture", "canceled"]
    assert await world.published() == ["PaymentVoided", "PaymentAuthorized"]


async def test_a_repeated_payment_that_requires_action_is_one_intent(world: World) -> None:
    order = await world.order()
    first = await world.pay(order, "pm_card_authenticationRequired")
    again = await world.pay(order, "pm_card_authenticationRequired")
    assert first.json() == again.json()
    assert len(await world.intents()) == 1
