"""What Stripe's test mode cannot show: faults on demand, concurrency, the bank's page, restarts, webhooks."""

import asyncio
import sqlite3
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import stripe

from stripe_sandbox.app import create_app
from tests.stripe_sandbox.running import (
    API_KEY,
    RETURN_URL,
    RunningSandbox,
    WebhookEndpoint,
    authorized,
    key,
    order,
    running_sandbox,
)
from tests.support import eventually

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content")


async def test_a_500_before_the_effect_leaves_no_effect_and_no_stored_response(sandbox: RunningSandbox) -> None:
    await sandbox.inject(requests=[{"answer": "internal_error"}])
    params, options = order(), key()
    with pytest.raises(stripe.APIError) as failed:
        await sandbox.client.v1.payment_intents.create_async(params, options)
    assert failed.value.http_status == 500
    assert not (await sandbox.client.v1.payment_intents.list_async()).data
    assert (await sandbox.client.v1.payment_intents.create_async(params, options)).status == "requires_capture"


async def test_a_500_after_the_effect_is_the_stored_response_of_the_key(sandbox: RunningSandbox) -> None:
    await sandbox.inject(requests=[{"answer": "internal_error", "when": "after"}])
    params, options = order(), key()
    for _ in range(2):
        with pytest.raises(stripe.APIError) as failed:
            await sandbox.client.v1.payment_intents.create_async(params, options)
        assert failed.value.http_status == 500
    assert failed.value.headers is not None
    assert failed.value.headers["stripe-should-retry"] == "false"
    [intent] = (await sandbox.client.v1.payment_intents.list_async()).data
    assert intent.status == "requires_capture"


async def test_a_connection_dropped_after_the_effect_loses_only_the_response(sandbox: RunningSandbox) -> None:
    await sandbox.inject(requests=[{"answer": "drop", "when": "after"}])
    params, options = order(), key()
    with pytest.raises(stripe.APIConnectionError):
        await sandbox.client.v1.payment_intents.create_async(params, options)
    intent = await sandbox.client.v1.payment_intents.create_async(params, options)
    assert [each.id for each in (await sandbox.client.v1.payment_intents.list_async()).data] == [intent.id]


async def test_a_connection_dropped_before_the_effect_leaves_no_effect(sandbox: RunningSandbox) -> None:
    await sandbox.inject(requests=[{"answer": "drop"}])
    with pytest.raises(stripe.APIConnectionError):
        await sandbox.client.v1.payment_intents.create_async(order(), key())
    assert not (await sandbox.client.v1.payment_intents.list_async()).data


async def test_too_many_requests_get_a_429(sandbox: RunningSandbox) -> None:
    await sandbox.inject(requests=[{"answer": "too_many_requests", "operations": ["create_intent"], "count": 2}])
    assert not (await sandbox.client.v1.payment_intents.list_async()).data
    for _ in range(2):
        with pytest.raises(stripe.RateLimitError):
            await sandbox.client.v1.payment_intents.create_async(order())
    await authorized(sandbox.client)


async def test_a_response_can_be_delayed(sandbox: RunningSandbox) -> None:
    await sandbox.inject(requests=[{"delay_ms": 200, "when": "after"}])
    began = time.monotonic()
    await authorized(sandbox.client)
    assert time.monotonic() - began >= 0.2


async def test_a_key_in_use_is_refused_at_once(sandbox: RunningSandbox) -> None:
    await sandbox.inject(requests=[{"when": "during", "delay_ms": 500}])
    params, options = order(), key()
    responses = await asyncio.gather(
        *(sandbox.client.v1.payment_intents.create_async(params, options) for _ in range(8)), return_exceptions=True
    )
    refused = [each for each in responses if isinstance(each, stripe.StripeError)]
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


async def test_concurrent_captures_take_the_money_once(sandbox: RunningSandbox) -> None:
    intent = await authorized(sandbox.client)
    responses = await asyncio.gather(
        *(sandbox.client.v1.payment_intents.capture_async(intent.id) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(each, stripe.PaymentIntent) for each in responses) == 1
    found = await sandbox.client.v1.payment_intents.retrieve_async(intent.id)
    assert found.amount_received == 1999


async def test_faults_are_listed_and_cleared(sandbox: RunningSandbox) -> None:
    await sandbox.inject(requests=[{"answer": "drop", "count": 0}], webhooks=[{"kind": "lose", "count": 0}])
    wanted = (await sandbox.http.get("/sandbox/faults")).json()
    assert [each["answer"] for each in wanted["requests"]] == ["drop"]
    assert [each["kind"] for each in wanted["webhooks"]] == ["lose"]
    await sandbox.clear_faults()
    await authorized(sandbox.client)


async def test_an_unknown_fault_is_refused(sandbox: RunningSandbox) -> None:
    assert (await sandbox.http.post("/sandbox/faults", json={"requests": [{"answer": "smile"}]})).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": ""}, 415),
    ],
)
async def test_a_page_of_another_site_cannot_plan_faults(
    sandbox: RunningSandbox, headers: dict[str, str], status: int
) -> None:
    sent = {"content-type": "application/json", **headers}
    body = b'{"requests":[{"answer":"drop"}]}'
    assert (await sandbox.http.post("/sandbox/faults", content=body, headers=sent)).status_code == status
    intent = await authorized(sandbox.client)
    if status == 403:
        assert (await sandbox.http.delete("/sandbox/faults", headers=headers)).status_code == status
        assert (await sandbox.http.post(f"/sandbox/expire/{intent.id}", headers=headers)).status_code == status
    assert (await sandbox.http.get("/sandbox/faults")).json()["requests"] == []


async def test_intents_are_found_by_their_metadata(sandbox: RunningSandbox) -> None:
    made = [await authorized(sandbox.client, metadata={"order_id": "it's", "attempt": str(n)}) for n in range(3)]
    await authorized(sandbox.client)
    intents = sandbox.client.v1.payment_intents
    with pytest.raises(stripe.InvalidRequestError):
        await intents.search_async({"query": "metadata['order_id']:'it's' OR 1=1"})
    found = await intents.search_async({"query": "metadata['attempt']:'1' AND status:'requires_capture'"})
    assert [each.id for each in found.data] == [made[1].id]
    assert not (await intents.search_async({"query": "metadata['order_id']:'nothing'"})).data


@pytest.mark.parametrize("authorization", [None, "Bearer sk_test_somebody_else", "Basic c2s6"])
async def test_without_the_secret_key_every_request_is_refused(
    sandbox: RunningSandbox, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    response = await sandbox.http.get("/v1/payment_intents", headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "invalid_request_error"
    transport = stripe.HTTPXClient()
    other = stripe.StripeClient("sk_test_somebody_else", base_addresses={"api": sandbox.url}, http_client=transport)
    with pytest.raises(stripe.AuthenticationError):
        await other.v1.payment_intents.list_async()
    await transport.close_async()  # type: ignore[no-untyped-call]  # not annotated in the SDK


async def test_parameters_and_resources_that_the_sandbox_does_not_offer_are_refused(sandbox: RunningSandbox) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="does not offer the parameter transfer_group"):
        await sandbox.client.v1.payment_intents.create_async(order(transfer_group="seller"))
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL"):
        await sandbox.client.v1.customers.list_async()


async def test_a_refused_metadata_value_is_named_by_its_parameter(sandbox: RunningSandbox) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await sandbox.client.v1.payment_intents.create_async(order(metadata={"seat": {"row": "4"}}))
    assert refused.value.param == "metadata"


async def test_a_card_number_is_never_accepted(sandbox: RunningSandbox) -> None:
    params = order(payment_method_data={"type": "card", "card": {"number": "4242424242424242"}})
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await sandbox.client.v1.payment_intents.create_async(params)
    assert refused.value.code == "parameter_unknown"
    assert "4242" not in str(refused.value)


async def test_the_buyer_can_approve_on_the_bank_s_page(sandbox: RunningSandbox) -> None:
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
    response = await sandbox.authenticate(intent)
    assert response.status_code == 303
    assert response.headers["location"] == (
        f"{RETURN_URL}?payment_intent={intent.id}&payment_intent_client_secret={intent.client_secret}"
        "&redirect_status=succeeded"
    )
    assert (await sandbox.client.v1.payment_intents.retrieve_async(intent.id)).status == "requires_capture"
    assert "Nothing is left" in (await sandbox.authenticate(intent)).text


async def test_the_buyer_can_refuse_on_the_bank_s_page(sandbox: RunningSandbox) -> None:
    intent = await sandbox.client.v1.payment_intents.create_async(
        order(payment_method="pm_card_authenticationRequired")
    )
    response = await sandbox.authenticate(intent, "fail")
    assert response.headers["location"].endswith("redirect_status=failed")
    found = await sandbox.client.v1.payment_intents.retrieve_async(intent.id)
    assert found.status == "requires_payment_method"
    assert found.last_payment_error is not None
    assert found.last_payment_error.code == "payment_intent_authentication_failure"


async def test_the_bank_s_page_requires_the_client_secret(sandbox: RunningSandbox) -> None:
    intent = await sandbox.client.v1.payment_intents.create_async(
        order(payment_method="pm_card_authenticationRequired")
    )
    assert (await sandbox.http.get(f"/sandbox/authenticate/{intent.id}?client_secret=guess")).status_code == 404
    assert (
        await sandbox.http.post(f"/sandbox/authenticate/{intent.id}", data={"outcome": "approve"})
    ).status_code == 404
    assert (await sandbox.client.v1.payment_intents.retrieve_async(intent.id)).status == "requires_action"


async def test_an_authorization_can_expire(sandbox: RunningSandbox) -> None:
    intent = await authorized(sandbox.client)
    await sandbox.expire_authorization(intent.id)
    found = await sandbox.client.v1.payment_intents.retrieve_async(intent.id)
    assert (found.status, found.cancellation_reason) == ("canceled", "automatic")


async def test_a_list_has_no_place_of_an_object_of_another_kind(sandbox: RunningSandbox) -> None:
    intent = await authorized(sandbox.client)
    with pytest.raises(stripe.InvalidRequestError, match="No such event"):
        await sandbox.client.v1.events.list_async({"starting_after": intent.id})


async def test_everything_survives_a_restart(database: Path) -> None:
    params, options = order(), key()
    async with running_sandbox(database) as sandbox:
        intent = await sandbox.client.v1.payment_intents.create_async(params, options)
    async with running_sandbox(database) as sandbox:
        again = await sandbox.client.v1.payment_intents.create_async(params, options)
        assert again.id == intent.id
        captured = await sandbox.client.v1.payment_intents.capture_async(intent.id)
        assert captured.status == "succeeded"


async def test_only_this_machine_can_reach_it(database: Path) -> None:
    async with running_sandbox(database) as sandbox:
        assert httpx.URL(sandbox.url).host == "127.0.0.1"


async def test_webhooks_are_signed_and_sent_for_subscribed_events(database: Path, endpoint: WebhookEndpoint) -> None:
    async with running_sandbox(database, webhook_url=endpoint.url) as sandbox:
        intent = await authorized(sandbox.client)
        await sandbox.client.v1.payment_intents.capture_async(intent.id)
        await sandbox.client.v1.refunds.create_async({"payment_intent": intent.id})
        await eventually(lambda: _has(endpoint, 3), "three webhooks")
        assert sorted(endpoint.types) == [
            "charge.refunded",
            "payment_intent.amount_capturable_updated",
            "payment_intent.succeeded",
        ]
        listed = await sandbox.client.v1.events.list_async()
        assert "refund.created" in [each.type for each in listed.data]
        event = endpoint.received[0]
        assert (await sandbox.client.v1.events.retrieve_async(event.id)).type == event.type


async def test_an_event_counts_the_webhooks_that_are_not_delivered_yet(
    database: Path, endpoint: WebhookEndpoint
) -> None:
    endpoint.failures_left = 1
    async with running_sandbox(database, webhook_url=endpoint.url, retry_delays_seconds=(0.1,)) as sandbox:
        intent = await sandbox.client.v1.payment_intents.create_async(
            order(payment_method="pm_card_authenticationRequired")
        )
        [unsubscribed] = (await sandbox.client.v1.events.list_async()).data
        assert (unsubscribed.type, unsubscribed.pending_webhooks) == ("payment_intent.requires_action", 0)
        await sandbox.client.v1.payment_intents.cancel_async(intent.id)
        await eventually(lambda: _has(endpoint, 1), "the webhook at the second attempt")
        [event] = endpoint.received
        assert (event.type, event.pending_webhooks) == ("payment_intent.canceled", 1)

        async def is_delivered() -> bool:
            return (await sandbox.client.v1.events.retrieve_async(event.id)).pending_webhooks == 0

        await eventually(is_delivered, "no webhook is pending")
        await sandbox.inject(webhooks=[{"kind": "lose"}])
        await authorized(sandbox.client)
        [lost, *_] = (await sandbox.client.v1.events.list_async()).data
        assert (lost.type, lost.pending_webhooks) == ("payment_intent.amount_capturable_updated", 1)


async def test_webhooks_are_retried_until_they_are_accepted(database: Path, endpoint: WebhookEndpoint) -> None:
    endpoint.failures_left = 3
    delays_seconds = (0.01, 0.02, 0.04, 0.08)
    async with running_sandbox(database, webhook_url=endpoint.url, retry_delays_seconds=delays_seconds) as sandbox:
        await authorized(sandbox.client)
        await eventually(lambda: _has(endpoint, 1), "the webhook at the fourth attempt")
        assert endpoint.attempts == 4


async def test_undelivered_webhooks_survive_a_restart(database: Path, endpoint: WebhookEndpoint) -> None:
    endpoint.failures_left = 1
    async with running_sandbox(database, webhook_url=endpoint.url, retry_delays_seconds=(0.5,)) as sandbox:
        await authorized(sandbox.client)
        await eventually(lambda: _was_attempted(endpoint), "the first attempt")
    assert not endpoint.received
    async with running_sandbox(database, webhook_url=endpoint.url, retry_delays_seconds=(0.5,)):
        await eventually(lambda: _has(endpoint, 1), "the webhook after the restart")


async def test_webhooks_can_be_lost_and_duplicated(database: Path, endpoint: WebhookEndpoint) -> None:
    async with running_sandbox(database, webhook_url=endpoint.url) as sandbox:
        await sandbox.inject(webhooks=[{"kind": "lose"}])
        intent = await authorized(sandbox.client)
        await sandbox.inject(webhooks=[{"kind": "duplicate", "types": ["payment_intent.succeeded"]}])
        await sandbox.client.v1.payment_intents.capture_async(intent.id)
        await eventually(lambda: _has(endpoint, 2), "the same webhook twice")
        assert endpoint.received[0].id == endpoint.received[1].id
        assert set(endpoint.types) == {"payment_intent.succeeded"}


async def test_webhooks_can_arrive_out_of_order(database: Path, endpoint: WebhookEndpoint) -> None:
    async with running_sandbox(database, webhook_url=endpoint.url) as sandbox:
        await sandbox.inject(webhooks=[{"kind": "reorder", "delay_ms": 10_000}])
        intent = await authorized(sandbox.client)
        await sandbox.client.v1.payment_intents.capture_async(intent.id)
        await eventually(lambda: _has(endpoint, 2), "both webhooks")
        assert endpoint.types == ["payment_intent.succeeded", "payment_intent.amount_capturable_updated"]


async def test_webhooks_can_be_delayed(database: Path, endpoint: WebhookEndpoint) -> None:
    async with running_sandbox(database, webhook_url=endpoint.url) as sandbox:
        await sandbox.inject(webhooks=[{"kind": "delay", "delay_ms": 100, "count": 0}])
        began = time.monotonic()
        await authorized(sandbox.client)
        await eventually(lambda: _has(endpoint, 1), "the delayed webhook")
        assert time.monotonic() - began >= 0.1


async def test_a_database_file_has_one_sandbox_at_a_time(database: Path) -> None:
    async with running_sandbox(database):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            create_app(database, secret_key=API_KEY, lock_seconds=0.2)


async def _has(endpoint: WebhookEndpoint, count: int) -> bool:
    return len(endpoint.received) >= count


async def _was_attempted(endpoint: WebhookEndpoint) -> bool:
    return endpoint.attempts > 0


async def test_the_date_of_a_response_is_by_the_clock_of_its_objects(
    sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stripe_sandbox.app.time", SimpleNamespace(time=lambda: 2_000_000_000.0))
    response = await sandbox.http.get("/v1/account", headers={"authorization": f"Bearer {API_KEY}"})
    assert parsedate_to_datetime(response.headers["date"]).timestamp() == response.json()["created"] == 2_000_000_000
    assert len(response.headers.get_list("date")) == 1
