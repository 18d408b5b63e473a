"""What the provider tells us by itself: only when it is signed, and never believed without looking."""

import json
import time
from typing import Any

import httpx
import pytest
import stripe

from admitone.kernel import ids
from tests.payments.support import World, awaiting, cancelled, running_world
from tests.stripe_sandbox.running import WEBHOOK_SECRET
from tests.support import eventually

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content")


def event(intent: Any, type_: str = "payment_intent.succeeded", **changes: Any) -> dict[str, Any]:
    """An event about an intent, as Stripe would tell it."""
    return {
        "id": f"evt_{ids.new_id().hex}",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": int(time.time()),
        "data": {"object": intent.to_dict()},
        "livemode": False,
        "pending_webhooks": 1,
        "request": None,
        "type": type_,
        **changes,
    }


async def send(
    world: World, told: Any, *, secret: str = WEBHOOK_SECRET, at: int | None = None, signed: str | None = None
) -> httpx.Response:
    body = told if isinstance(told, str) else json.dumps(told)
    signature = stripe.WebhookSignature.generate_signature_header(signed or body, secret, at)
    async with httpx.AsyncClient(base_url=world.url) as provider:
        headers = {"stripe-signature": signature, "content-type": "application/json"}
        return await provider.post("/api/payments/webhook", content=body, headers=headers)


async def finding(world: World, event_id: str) -> str:
    """What came of a stored webhook, once it is worked off."""

    async def found() -> str | None:
        worked: str | None = await world.service.database.fetchval(
            "SELECT finding FROM webhook WHERE event_id = $1", event_id
        )
        return worked

    return str(await eventually(found, "the webhook is worked off"))


async def stored(world: World) -> int:
    return int(await world.service.database.fetchval("SELECT count(*) FROM webhook"))


async def authorised(world: World) -> tuple[Any, Any]:
    order = await world.order()
    await world.pay(order)
    return order, await world.intent(order)


@pytest.mark.parametrize(
    "signature", [None, b"", b"t=1,v1=\xff", b"\xff", b"t=1", b"t=\xb2,v1=0", b"v1=0", b"t=9" + b"9" * 5000]
)
async def test_a_signature_that_is_none_is_refused(deaf_world: World, signature: bytes | None) -> None:
    async with httpx.AsyncClient(base_url=deaf_world.url) as provider:
        headers = [(b"stripe-signature", signature)] if signature is not None else []
        answer = await provider.post("/api/payments/webhook", content=b"{}", headers=headers)
    assert answer.status_code == 400
    assert answer.json() == {"errors": [{"message": "The signature is not valid"}]}
    assert await stored(deaf_world) == 0


async def test_a_webhook_with_the_wrong_signature_is_refused_and_forgotten(deaf_world: World) -> None:
    world = deaf_world
    _, intent = await authorised(world)
    told = event(intent)
    for answer in (
        await send(world, told, secret="whsec_of_somebody_else"),
        await send(world, told, signed=json.dumps(event(intent, "payment_intent.canceled"))),
        await send(world, told, at=int(time.time()) - 301),
        await send(world, "not json"),
        await send(world, "{}"),
    ):
        assert answer.status_code == 400
        assert answer.json()["errors"]
    async with httpx.AsyncClient(base_url=world.url) as provider:
        assert (await provider.post("/api/payments/webhook", json=told)).status_code == 400
        big = await provider.post("/api/payments/webhook", content=b"x" * 70_000)
        assert big.status_code == 413
    assert await stored(world) == 0


@pytest.mark.parametrize(
    "strange",
    [
        '{"id": "evt_1", "type": "x", "livemode": false, "data": {"object": {}}, "more": '
        + "[" * 2000
        + "]" * 2000
        + "}",
        '{"id": "evt_1\\u0000", "type": "x", "livemode": false, "data": {"object": {}}}',
        '{"id": "", "type": "x", "livemode": false, "data": {"object": {}}}',
    ],
    ids=["nested without end", "an id that cannot be kept", "no id"],
)
async def test_what_stripe_never_says_is_refused_though_it_is_signed(deaf_world: World, strange: str) -> None:
    assert (await send(deaf_world, strange)).status_code == 400
    assert await stored(deaf_world) == 0


async def test_a_webhook_about_an_id_that_cannot_be_kept_holds_up_no_other(deaf_world: World) -> None:
    _, intent = await authorised(deaf_world)
    strange = event(intent, data={"object": {"id": "pi_\0", "object": "payment_intent"}})
    charge = event(intent, data={"object": {"id": "ch_1", "object": "charge", "payment_intent": "pi_\0"}})
    plain = event(intent, "payment_intent.amount_capturable_updated")
    for told in (strange, charge, plain):
        assert (await send(deaf_world, told)).status_code == 200
    assert await finding(deaf_world, plain["id"]) == "known"
    assert await finding(deaf_world, strange["id"]) == "unknown object"
    assert await finding(deaf_world, charge["id"]) == "unknown object"


async def test_a_webhook_four_minutes_old_is_taken(deaf_world: World) -> None:
    _, intent = await authorised(deaf_world)
    assert (await send(deaf_world, event(intent), at=int(time.time()) - 240)).status_code == 200


async def test_while_one_secret_replaces_another_both_are_valid(databases: Any, start_nats: Any) -> None:
    secrets = f"whsec_the_new_one,{WEBHOOK_SECRET}"
    async with running_world(databases, start_nats, webhooks=False, stripe_webhook_secret=secrets) as world:
        _, intent = await authorised(world)
        for secret in ("whsec_the_new_one", WEBHOOK_SECRET):
            assert (await send(world, event(intent), secret=secret)).status_code == 200


async def test_a_webhook_that_comes_again_is_stored_once(deaf_world: World) -> None:
    _, intent = await authorised(deaf_world)
    told = event(intent, "payment_intent.amount_capturable_updated")
    for _ in range(3):
        assert (await send(deaf_world, told)).status_code == 200
    assert await stored(deaf_world) == 1
    assert await finding(deaf_world, told["id"]) == "known"


async def test_a_webhook_about_something_unknown_is_stored_and_answered(deaf_world: World) -> None:
    _, intent = await authorised(deaf_world)
    foreign = event(intent)
    foreign["data"]["object"] |= {"id": "pi_of_somebody", "metadata": {}}
    customer = event(intent, "customer.created", data={"object": {"id": "cus_1", "object": "customer"}})
    for told in (foreign, customer):
        assert (await send(deaf_world, told)).status_code == 200
        assert await finding(deaf_world, told["id"]) == "unknown object"


@pytest.mark.parametrize(
    ("change", "mismatch"),
    [
        ({"amount": 1}, "another amount"),
        ({"currency": "eur"}, "another currency"),
        ({"metadata": {"order_id": "1"}}, "another order"),
        ({"livemode": True}, "another mode"),
    ],
)
async def test_a_webhook_that_does_not_fit_its_payment_is_not_believed(
    deaf_world: World, change: dict[str, Any], mismatch: str
) -> None:
    order, intent = await authorised(deaf_world)
    told = event(intent)
    told["data"]["object"] |= change
    assert (await send(deaf_world, told)).status_code == 200
    assert await finding(deaf_world, told["id"]) == mismatch
    assert (await deaf_world.payment(order)).state == "authorized"


async def test_a_webhook_that_lies_changes_nothing(deaf_world: World) -> None:
    """Signed with our secret, and yet not what the provider's books say."""
    world = deaf_world
    order, intent = await authorised(world)
    for type_, status in (("payment_intent.succeeded", "succeeded"), ("payment_intent.canceled", "canceled")):
        told = event(intent, type_)
        told["data"]["object"]["status"] = status
        await send(world, told)
        assert await finding(world, told["id"]) == "news"
        await eventually(lambda: _looked_at(world, order), "the payment was looked at")
        assert (await world.payment(order)).state == "authorized"
    assert await world.told() == ["PaymentAuthorized"]


async def test_a_webhook_before_the_answer_tells_the_same_once(world: World) -> None:
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "when": "after", "delay_ms": 500}])
    answer = await world.pay(order)
    assert (answer.status_code, answer.json()["status"]) == (201, "authorized")
    await eventually(lambda: _all_worked_off(world, 1), "the webhook is worked off")
    assert await world.told() == ["PaymentAuthorized"]


async def test_a_webhook_instead_of_the_answer_settles_the_payment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("admitone.payments.jobs._OVERTAKES_SECONDS", 0.1)
    monkeypatch.setattr("admitone.payments.gateway._AUTHORISE_SECONDS", 0.5)
    monkeypatch.setattr("admitone.payments.model._RETRY_SECONDS", 3600.0)
    order = await world.order()
    await world.sandbox.inject(
        requests=[{"operations": ["create_intent"], "when": "after", "answer": "internal_error"}]
    )
    assert (await world.pay(order)).status_code == 202
    await world.state(order, "authorized")
    assert await world.told() == ["PaymentAuthorized"]


async def test_webhooks_lost_doubled_and_overtaking_lead_to_the_same(world: World) -> None:
    await world.sandbox.inject(
        webhooks=[
            {"kind": "lose", "count": 0, "share": 0.3},
            {"kind": "duplicate", "count": 0, "share": 0.5},
            {"kind": "reorder", "count": 0, "share": 0.5, "delay_ms": 200},
        ]
    )
    orders = [await world.order(1000 + number) for number in range(12)]
    for number, order in enumerate(orders):
        await world.pay(order)
        payment = await world.payment(order)
        await world.hear(awaiting(order, payment.id) if number % 2 else cancelled(order))
    for number, order in enumerate(orders):
        await world.state(order, "captured" if number % 2 else "voided")
    told = sorted(await world.told())
    assert told == ["PaymentAuthorized"] * 12 + ["PaymentCreated"] * 6 + ["PaymentVoided"] * 6


async def test_money_given_back_by_hand_is_noticed(world: World) -> None:
    order, intent = await authorised(world)
    await world.hear(awaiting(order, (await world.payment(order)).id))
    await world.state(order, "captured")
    await world.sandbox.client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 999})
    await eventually(lambda: _all_worked_off(world, 3), "the webhooks are worked off")
    assert (await world.payment(order)).state == "captured"
    await world.sandbox.client.v1.refunds.create_async({"payment_intent": intent.id})
    await world.state(order, "refunded")
    assert await world.told() == ["PaymentAuthorized", "PaymentCreated", "PaymentRefunded"]


async def _all_worked_off(world: World, count: int) -> bool:
    row = await world.service.database.fetchrow("SELECT count(*), count(processed_at) AS done FROM webhook")
    assert row is not None
    return bool(row["count"] == row["done"] >= count)


async def _looked_at(world: World, order: Any) -> bool:
    payment = await world.payment(order)
    return payment.tries == 0 and payment.due_at is not None and payment.due_at.timestamp() > time.time() + 31
