"""What goes wrong on demand, and what the sandbox keeps to itself: keys, pages, restarts, webhooks."""

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

from stripe_sandbox.app import create_app
from tests.stripe_sandbox.running import API_KEY, Mailbox, RunningSandbox, running_sandbox
from tests.stripe_sandbox.test_as_stripe import RETURN_URL, authorised, key, order
from tests.support import eventually

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content")


async def test_a_500_before_the_effect_leaves_none_and_no_answer(sandbox: RunningSandbox) -> None:
    await sandbox.wants(requests=[{"answer": "internal_error"}])
    params, options = order(), key()
    with pytest.raises(stripe.APIError) as failed:
        await sandbox.client.v1.payment_intents.create_async(params, options)
    assert failed.value.http_status == 500
    assert not (await sandbox.client.v1.payment_intents.list_async()).data
    assert (await sandbox.client.v1.payment_intents.create_async(params, options)).status == "requires_capture"


async def test_a_500_after_the_effect_is_what_the_key_answers_from_then_on(sandbox: RunningSandbox) -> None:
    await sandbox.wants(requests=[{"answer": "internal_error", "when": "after"}])
    params, options = order(), key()
    for _ in range(2):
        with pytest.raises(stripe.APIError) as failed:
            await sandbox.client.v1.payment_intents.create_async(params, options)
        assert failed.value.http_status == 500
    assert failed.value.headers is not None
    assert failed.value.headers["stripe-should-retry"] == "false"
    [intent] = (await sandbox.client.v1.payment_intents.list_async()).data
    assert intent.status == "requires_capture"


async def test_a_connection_dropped_after_the_effect_loses_only_the_answer(sandbox: RunningSandbox) -> None:
    await sandbox.wants(requests=[{"answer": "drop", "when": "after"}])
    params, options = order(), key()
    with pytest.raises(stripe.APIConnectionError):
        await sandbox.client.v1.payment_intents.create_async(params, options)
    intent = await sandbox.client.v1.payment_intents.create_async(params, options)
    assert [each.id for each in (await sandbox.client.v1.payment_intents.list_async()).data] == [intent.id]


async def test_a_connection_dropped_before_the_effect_leaves_none(sandbox: RunningSandbox) -> None:
    await sandbox.wants(requests=[{"answer": "drop"}])
    with pytest.raises(stripe.APIConnectionError):
        await sandbox.client.v1.payment_intents.create_async(order(), key())
    assert not (await sandbox.client.v1.payment_intents.list_async()).data


async def test_too_many_requests_are_told_so(sandbox: RunningSandbox) -> None:
    await sandbox.wants(requests=[{"answer": "too_many_requests", "operations": ["create_intent"], "count": 2}])
    assert not (await sandbox.client.v1.payment_intents.list_async()).data
    for _ in range(2):
        with pytest.raises(stripe.RateLimitError):
            await sandbox.client.v1.payment_intents.create_async(order())
    await authorised(sandbox.client)


async def test_an_answer_can_be_late(sandbox: RunningSandbox) -> None:
    await sandbox.wants(requests=[{"delay_ms": 200, "when": "after"}])
    began = time.monotonic()
    await authorised(sandbox.client)
    assert time.monotonic() - began >= 0.2


async def test_a_key_in_use_is_refused_at_once(sandbox: RunningSandbox) -> None:
    await sandbox.wants(requests=[{"when": "during", "delay_ms": 500}])
    params, options = order(), key()
    answers = await asyncio.gather(
        *(sandbox.client.v1.payment_intents.create_async(params, options) for _ in range(8)), return_exceptions=True
    )
    refused = [each for each in answers if isinstance(each, stripe.StripeError)]
    assert all(each.http_status == 409 and each.code is None for each in refused)
    assert refused
    bodies: list[Any] = [each.json_body for each in refused]
    assert {each["error"]["code"] for each in bodies} == {"idempotency_key_in_use"}
    assert len((await sandbox.client.v1.payment_intents.list_async()).data) == 1


async def test_a_key_belongs_to_its_endpoint(sandbox: RunningSandbox) -> None:
    options = key()
    intent = await sandbox.client.v1.payment_intents.create_async(order(), options)
    with pytest.raises(stripe.IdempotencyError, match="endpoint"):
        await sandbox.client.v1.payment_intents.capture_async(intent.id, options=options)


async def test_two_captures_at_once_take_the_money_once(sandbox: RunningSandbox) -> None:
    intent = await authorised(sandbox.client)
    answers = await asyncio.gather(
        *(sandbox.client.v1.payment_intents.capture_async(intent.id) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(each, stripe.PaymentIntent) for each in answers) == 1
    found = await sandbox.client.v1.payment_intents.retrieve_async(intent.id)
    assert found.amount_received == 1999


async def test_faults_are_shown_and_cleared(sandbox: RunningSandbox) -> None:
    await sandbox.wants(requests=[{"answer": "drop", "count": 0}], webhooks=[{"kind": "lose", "count": 0}])
    wanted = (await sandbox.http.get("/sandbox/faults")).json()
    assert [each["answer"] for each in wanted["requests"]] == ["drop"]
    assert [each["kind"] for each in wanted["webhooks"]] == ["lose"]
    await sandbox.forgives()
    await authorised(sandbox.client)


async def test_an_unknown_fault_is_refused(sandbox: RunningSandbox) -> None:
    assert (await sandbox.http.post("/sandbox/faults", json={"requests": [{"answer": "smile"}]})).status_code == 400


async def test_intents_are_found_by_their_metadata(sandbox: RunningSandbox) -> None:
    made = [await authorised(sandbox.client, metadata={"order_id": "it's", "attempt": str(n)}) for n in range(3)]
    await authorised(sandbox.client)
    intents = sandbox.client.v1.payment_intents
    with pytest.raises(stripe.InvalidRequestError):
        await intents.search_async({"query": "metadata['order_id']:'it's' OR 1=1"})
    found = await intents.search_async({"query": "metadata['attempt']:'1' AND status:'requires_capture'"})
    assert [each.id for each in found.data] == [made[1].id]
    assert not (await intents.search_async({"query": "metadata['order_id']:'nothing'"})).data


@pytest.mark.parametrize("authorization", [None, "Bearer sk_test_somebody_else", "Basic c2s6"])
async def test_without_the_key_nothing_is_answered(sandbox: RunningSandbox, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    answer = await sandbox.http.get("/v1/payment_intents", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_request_error"
    transport = stripe.HTTPXClient()
    other = stripe.StripeClient("sk_test_somebody_else", base_addresses={"api": sandbox.url}, http_client=transport)
    with pytest.raises(stripe.AuthenticationError):
        await other.v1.payment_intents.list_async()
    await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK says nothing about it


async def test_what_the_sandbox_does_not_offer_is_said_so(sandbox: RunningSandbox) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="does not offer the parameter transfer_group"):
        await sandbox.client.v1.payment_intents.create_async(order(transfer_group="seller"))
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
        await sandbox.client.v1.customers.list_async()


async def test_a_card_number_is_never_taken(sandbox: RunningSandbox) -> None:
    params = order(payment_method_data={"type": "card", "card": {"number": "4242424242424242"}})
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await sandbox.client.v1.payment_intents.create_async(params)
    assert refused.value.code == "parameter_unknown"
    assert "4242" not in str(refused.value)


async def test_the_bank_s_page_lets_the_buyer_approve(sandbox: RunningSandbox) -> None:
    intent = await sandbox.client.v1.payment_intents.create_async(
        order(payment_method="pm_card_authenticationRequired")
    )
    assert intent.next_action is not None
    assert intent.next_action.redirect_to_url is not None
    url = intent.next_action.redirect_to_url.url
    assert url is not None
    page = await sandbox.http.get(url)
    assert page.status_code == 200
    assert "19.99 USD" in page.text
    answer = await sandbox.authenticates(intent)
    assert answer.status_code == 303
    assert answer.headers["location"] == (
        f"{RETURN_URL}?payment_intent={intent.id}&payment_intent_client_secret={intent.client_secret}"
        "&redirect_status=succeeded"
    )
    assert (await sandbox.client.v1.payment_intents.retrieve_async(intent.id)).status == "requires_capture"
    assert "Nothing is left" in (await sandbox.authenticates(intent)).text


async def test_the_bank_s_page_lets_the_buyer_refuse(sandbox: RunningSandbox) -> None:
    intent = await sandbox.client.v1.payment_intents.create_async(
        order(payment_method="pm_card_authenticationRequired")
    )
    answer = await sandbox.authenticates(intent, "fail")
    assert answer.headers["location"].endswith("redirect_status=failed")
    found = await sandbox.client.v1.payment_intents.retrieve_async(intent.id)
    assert found.status == "requires_payment_method"
    assert found.last_payment_error is not None
    assert found.last_payment_error.code == "payment_intent_authentication_failure"


async def test_the_bank_s_page_opens_only_with_the_secret(sandbox: RunningSandbox) -> None:
    intent = await sandbox.client.v1.payment_intents.create_async(
        order(payment_method="pm_card_authenticationRequired")
    )
    assert (await sandbox.http.get(f"/sandbox/authenticate/{intent.id}?client_secret=guess")).status_code == 404
    assert (
        await sandbox.http.post(f"/sandbox/authenticate/{intent.id}", data={"outcome": "approve"})
    ).status_code == 404
    assert (await sandbox.client.v1.payment_intents.retrieve_async(intent.id)).status == "requires_action"


async def test_an_authorisation_lapses(sandbox: RunningSandbox) -> None:
    intent = await authorised(sandbox.client)
    await sandbox.expires(intent.id)
    found = await sandbox.client.v1.payment_intents.retrieve_async(intent.id)
    assert (found.status, found.cancellation_reason) == ("canceled", "automatic")


async def test_everything_survives_a_restart(database: Path) -> None:
    params, options = order(), key()
    async with running_sandbox(database) as sandbox:
        intent = await sandbox.client.v1.payment_intents.create_async(params, options)
    async with running_sandbox(database) as sandbox:
        again = await sandbox.client.v1.payment_intents.create_async(params, options)
        assert again.id == intent.id
        taken = await sandbox.client.v1.payment_intents.capture_async(intent.id)
        assert taken.status == "succeeded"


async def test_only_this_machine_can_reach_it(database: Path) -> None:
    async with running_sandbox(database) as sandbox:
        assert httpx.URL(sandbox.url).host == "127.0.0.1"


async def test_webhooks_are_signed_and_come_for_what_was_asked_for(database: Path, mailbox: Mailbox) -> None:
    async with running_sandbox(database, webhook_url=mailbox.url) as sandbox:
        intent = await authorised(sandbox.client)
        await sandbox.client.v1.payment_intents.capture_async(intent.id)
        await sandbox.client.v1.refunds.create_async({"payment_intent": intent.id})
        await eventually(lambda: _has(mailbox, 3), "three webhooks")
        assert sorted(mailbox.types) == [
            "charge.refunded",
            "payment_intent.amount_capturable_updated",
            "payment_intent.succeeded",
        ]
        listed = await sandbox.client.v1.events.list_async()
        assert "refund.created" in [each.type for each in listed.data]
        event = mailbox.received[0]
        assert (await sandbox.client.v1.events.retrieve_async(event.id)).type == event.type


async def test_webhooks_are_tried_until_they_are_taken(database: Path, mailbox: Mailbox) -> None:
    mailbox.refuses = 3
    delays_seconds = (0.01, 0.02, 0.04, 0.08)
    async with running_sandbox(database, webhook_url=mailbox.url, retry_delays_seconds=delays_seconds) as sandbox:
        await authorised(sandbox.client)
        await eventually(lambda: _has(mailbox, 1), "the webhook at the fourth try")
        assert mailbox.tried == 4


async def test_webhooks_not_taken_yet_survive_a_restart(database: Path, mailbox: Mailbox) -> None:
    mailbox.refuses = 1
    async with running_sandbox(database, webhook_url=mailbox.url, retry_delays_seconds=(0.5,)) as sandbox:
        await authorised(sandbox.client)
        await eventually(lambda: _was_tried(mailbox), "the first try")
    assert not mailbox.received
    async with running_sandbox(database, webhook_url=mailbox.url, retry_delays_seconds=(0.5,)):
        await eventually(lambda: _has(mailbox, 1), "the webhook after the restart")


async def test_webhooks_can_be_lost_and_come_twice(database: Path, mailbox: Mailbox) -> None:
    async with running_sandbox(database, webhook_url=mailbox.url) as sandbox:
        await sandbox.wants(webhooks=[{"kind": "lose"}])
        intent = await authorised(sandbox.client)
        await sandbox.wants(webhooks=[{"kind": "duplicate", "types": ["payment_intent.succeeded"]}])
        await sandbox.client.v1.payment_intents.capture_async(intent.id)
        await eventually(lambda: _has(mailbox, 2), "the same webhook twice")
        assert mailbox.received[0].id == mailbox.received[1].id
        assert set(mailbox.types) == {"payment_intent.succeeded"}


async def test_webhooks_can_overtake_each_other(database: Path, mailbox: Mailbox) -> None:
    async with running_sandbox(database, webhook_url=mailbox.url) as sandbox:
        await sandbox.wants(webhooks=[{"kind": "reorder", "delay_ms": 10_000}])
        intent = await authorised(sandbox.client)
        await sandbox.client.v1.payment_intents.capture_async(intent.id)
        await eventually(lambda: _has(mailbox, 2), "both webhooks")
        assert mailbox.types == ["payment_intent.succeeded", "payment_intent.amount_capturable_updated"]


async def test_webhooks_can_be_late(database: Path, mailbox: Mailbox) -> None:
    async with running_sandbox(database, webhook_url=mailbox.url) as sandbox:
        await sandbox.wants(webhooks=[{"kind": "delay", "delay_ms": 100, "count": 0}])
        began = time.monotonic()
        await authorised(sandbox.client)
        await eventually(lambda: _has(mailbox, 1), "the late webhook")
        assert time.monotonic() - began >= 0.1


async def test_two_sandboxes_never_share_a_database(database: Path) -> None:
    async with running_sandbox(database):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            create_app(database, secret_key=API_KEY, lock_seconds=0.2)


async def _has(mailbox: Mailbox, count: int) -> bool:
    return len(mailbox.received) >= count


async def _was_tried(mailbox: Mailbox) -> bool:
    return mailbox.tried > 0
