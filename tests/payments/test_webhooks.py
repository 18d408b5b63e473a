"""Webhooks: they are accepted only if they are signed, and never trusted without reading the payment at Stripe."""

import inspect
import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

from admitone.kernel import ids
from admitone.payments.jobs import is_known
from tests.payments.support import World, awaiting, cancelled, rejected, running_world
from tests.stripe_sandbox.running import WEBHOOK_SECRET
from tests.support import eventually

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content")


def event(intent: Any, type_: str = "payment_intent.succeeded", **changes: Any) -> dict[str, Any]:
    """Return an event about an intent, as Stripe would send it."""
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
    world: World, sent: Any, *, secret: str = WEBHOOK_SECRET, at: int | None = None, signed: str | None = None
) -> httpx.Response:
    body = sent if isinstance(sent, str) else json.dumps(sent)
    signature = stripe.WebhookSignature.generate_signature_header(signed or body, secret, at)
    async with httpx.AsyncClient(base_url=world.url) as provider:
        headers = {"stripe-signature": signature, "content-type": "application/json"}
        return await provider.post("/api/payments/webhook", content=body, headers=headers)


async def outcome(world: World, event_id: str) -> str:
    """Return the outcome of a stored webhook once it is processed."""

    async def found() -> str | None:
        recorded: str | None = await world.service.database.fetchval(
            "SELECT outcome FROM webhook WHERE event_id = $1", event_id
        )
        return recorded

    return str(await eventually(found, "the webhook is processed"))


async def stored(world: World) -> int:
    return int(await world.service.database.fetchval("SELECT count(*) FROM webhook"))


async def authorized(world: World) -> tuple[Any, Any]:
    order = await world.order()
    await world.pay(order)
    return order, await world.intent(order)


@pytest.mark.parametrize(
    "signature", [None, b"", b"t=1,v1=\xff", b"\xff", b"t=1", b"t=\xb2,v1=0", b"v1=0", b"t=9" + b"9" * 5000]
)
async def test_a_malformed_signature_is_refused(world_without_webhooks: World, signature: bytes | None) -> None:
    async with httpx.AsyncClient(base_url=world_without_webhooks.url) as provider:
        headers = [(b"stripe-signature", signature)] if signature is not None else []
        response = await provider.post("/api/payments/webhook", content=b"{}", headers=headers)
    assert response.status_code == 400
    assert response.json() == {"errors": [{"message": "The signature is not valid"}]}
    assert await stored(world_without_webhooks) == 0


async def test_a_webhook_with_a_wrong_signature_is_refused_and_not_stored(world_without_webhooks: World) -> None:
    world = world_without_webhooks
    _, intent = await authorized(world)
    sent = event(intent)
    for response in (
        await send(world, sent, secret="whsec_of_somebody_else"),
        await send(world, sent, signed=json.dumps(event(intent, "payment_intent.canceled"))),
        await send(world, sent, at=int(time.time()) - 301),
        await send(world, "not json"),
        await send(world, "{}"),
    ):
        assert response.status_code == 400
        assert response.json()["errors"]
    async with httpx.AsyncClient(base_url=world.url) as provider:
        assert (await provider.post("/api/payments/webhook", json=sent)).status_code == 400
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
    ids=["nested too deeply", "an id that cannot be stored", "no id"],
)
async def test_a_malformed_webhook_is_refused_although_it_is_signed(
    world_without_webhooks: World, strange: str
) -> None:
    assert (await send(world_without_webhooks, strange)).status_code == 400
    assert await stored(world_without_webhooks) == 0


async def test_a_webhook_with_an_unstorable_id_does_not_block_others(world_without_webhooks: World) -> None:
    _, intent = await authorized(world_without_webhooks)
    strange = event(intent, data={"object": {"id": "pi_\0", "object": "payment_intent"}})
    charge = event(intent, data={"object": {"id": "ch_1", "object": "charge", "payment_intent": "pi_\0"}})
    plain = event(intent, "payment_intent.amount_capturable_updated")
    for sent in (strange, charge, plain):
        assert (await send(world_without_webhooks, sent)).status_code == 200
    assert await outcome(world_without_webhooks, plain["id"]) == "known"
    assert await outcome(world_without_webhooks, strange["id"]) == "unknown object"
    assert await outcome(world_without_webhooks, charge["id"]) == "unknown object"


async def test_a_webhook_that_is_four_minutes_old_is_accepted(world_without_webhooks: World) -> None:
    _, intent = await authorized(world_without_webhooks)
    assert (await send(world_without_webhooks, event(intent), at=int(time.time()) - 240)).status_code == 200


async def test_both_secrets_are_valid_while_one_replaces_the_other(databases: Any, start_nats: Any) -> None:
    secrets = f"whsec_the_new_one,{WEBHOOK_SECRET}"
    async with running_world(databases, start_nats, webhooks=False, stripe_webhook_secret=secrets) as world:
        _, intent = await authorized(world)
        for secret in ("whsec_the_new_one", WEBHOOK_SECRET):
            assert (await send(world, event(intent), secret=secret)).status_code == 200


async def test_a_repeated_webhook_is_stored_once(world_without_webhooks: World) -> None:
    _, intent = await authorized(world_without_webhooks)
    sent = event(intent, "payment_intent.amount_capturable_updated")
    for _ in range(3):
        assert (await send(world_without_webhooks, sent)).status_code == 200
    assert await stored(world_without_webhooks) == 1
    assert await outcome(world_without_webhooks, sent["id"]) == "known"


async def test_a_webhook_about_an_unknown_object_is_accepted_and_stored(world_without_webhooks: World) -> None:
    _, intent = await authorized(world_without_webhooks)
    foreign = event(intent)
    foreign["data"]["object"] |= {"id": "pi_of_somebody", "metadata": {}}
    customer = event(intent, "customer.created", data={"object": {"id": "cus_1", "object": "customer"}})
    for sent in (foreign, customer):
        assert (await send(world_without_webhooks, sent)).status_code == 200
        assert await outcome(world_without_webhooks, sent["id"]) == "unknown object"


@pytest.mark.parametrize(
    ("change", "mismatch"),
    [
        ({"amount": 1}, "amount differs"),
        ({"currency": "eur"}, "currency differs"),
        ({"metadata": {"order_id": "1"}}, "order differs"),
        ({"livemode": True}, "mode differs"),
    ],
)
async def test_a_webhook_that_differs_from_its_payment_is_not_trusted(
    world_without_webhooks: World, change: dict[str, Any], mismatch: str
) -> None:
    order, intent = await authorized(world_without_webhooks)
    sent = event(intent)
    sent["data"]["object"] |= change
    assert (await send(world_without_webhooks, sent)).status_code == 200
    assert await outcome(world_without_webhooks, sent["id"]) == mismatch
    assert (await world_without_webhooks.payment(order)).state == "authorized"


async def test_a_false_webhook_changes_nothing(world_without_webhooks: World) -> None:
    """It is signed with our secret and reports what did not happen."""
    world = world_without_webhooks
    order, intent = await authorized(world)
    for type_, status in (("payment_intent.succeeded", "succeeded"), ("payment_intent.canceled", "canceled")):
        sent = event(intent, type_)
        sent["data"]["object"]["status"] = status
        await send(world, sent)
        assert await outcome(world, sent["id"]) == "checked"
        await eventually(lambda: _is_checked(world, order), "the payment was checked")
        assert (await world.payment(order)).state == "authorized"
    assert await world.published() == ["PaymentAuthorized"]


async def test_a_webhook_that_arrives_before_the_response_publishes_nothing_more(world: World) -> None:
    order = await world.order()
    await world.sandbox.inject(requests=[{"operations": ["create_intent"], "when": "after", "delay_ms": 500}])
    response = await world.pay(order)
    assert (response.status_code, response.json()["status"]) == (201, "authorized")
    await eventually(lambda: _all_processed(world, 1), "the webhook is processed")
    assert await world.published() == ["PaymentAuthorized"]


async def test_a_webhook_settles_a_payment_without_a_response(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admitone.payments.jobs._RESPONSE_SECONDS", 0.1)
    monkeypatch.setattr("admitone.payments.gateway._AUTHORIZE_SECONDS", 0.5)
    monkeypatch.setattr("admitone.payments.model._RETRY_SECONDS", 3600.0)
    order = await world.order()
    await world.sandbox.inject(
        requests=[{"operations": ["create_intent"], "when": "after", "answer": "internal_error"}]
    )
    assert (await world.pay(order)).status_code == 202
    await world.state(order, "authorized")
    assert await world.published() == ["PaymentAuthorized"]


async def test_lost_repeated_and_reordered_webhooks_have_the_same_effect(world: World) -> None:
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
        await world.consume(awaiting(order, payment.id) if number % 2 else cancelled(order))
    for number, order in enumerate(orders):
        await world.state(order, "captured" if number % 2 else "voided")
    assert (
        sorted(await world.published()) == ["PaymentAuthorized"] * 12 + ["PaymentCreated"] * 6 + ["PaymentVoided"] * 6
    )


async def test_a_manual_refund_is_noticed(world: World) -> None:
    order, intent = await authorized(world)
    await world.consume(awaiting(order, (await world.payment(order)).id))
    await world.state(order, "captured")
    await world.sandbox.client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 999})
    await eventually(lambda: _is_refunded(world, order, 999), "the refund of a part is noticed")
    assert (await world.payment(order)).state == "captured"
    await world.sandbox.client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 1})
    await eventually(lambda: _is_refunded(world, order, 1000), "another refund is noticed")
    await world.sandbox.client.v1.refunds.create_async({"payment_intent": intent.id})
    assert (await world.state(order, "refunded")).refunded_cents == 1999
    assert await world.published() == ["PaymentAuthorized", "PaymentCreated", "PaymentRefunded"]


async def test_what_is_left_after_a_manual_refund_is_returned(world: World) -> None:
    order, intent = await authorized(world)
    payment = await world.payment(order)
    await world.consume(awaiting(order, payment.id))
    await world.state(order, "captured")
    await world.sandbox.client.v1.refunds.create_async({"payment_intent": intent.id, "amount": 999})
    await world.consume(rejected(order, payment.id))
    await world.state(order, "refunded")
    refunds = (await world.sandbox.client.v1.refunds.list_async()).data
    assert [refund.amount for refund in refunds] == [1000, 999]


async def _is_refunded(world: World, order: Any, cents: int) -> bool:
    return (await world.payment(order)).refunded_cents == cents


async def _all_processed(world: World, count: int) -> bool:
    row = await world.service.database.fetchrow("SELECT count(*), count(processed_at) AS done FROM webhook")
    assert row is not None
    return bool(row["count"] == row["done"] >= count)


async def _is_checked(world: World, order: Any) -> bool:
    payment = await world.payment(order)
    return payment.tries == 0 and payment.due_at is not None and payment.due_at.timestamp() > time.time() + 31


@pytest.mark.parametrize("document", ["README.md", "docs/operating.md"])
def test_the_documents_name_the_endpoint_and_every_event_that_is_used(document: str) -> None:
    text = Path(__file__).parents[2].joinpath(document).read_text()
    types = re.findall(r'case "([a-z_.]+)"', inspect.getsource(is_known))
    assert len(types) == 5
    assert [each for each in types if f"`{each}`" not in text] == []
    assert "/api/payments/webhook`" in text
