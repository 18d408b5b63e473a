"""The check of every response against Stripe's form of it: `running_sandbox` makes it in all tests with a sandbox."""

from typing import Any

import pytest
import stripe

from stripe_sandbox.events import API_VERSION
from tests.stripe_sandbox.running import API_KEY, RunningSandbox, authorized
from tests.stripe_sandbox.schema import SCHEMA, violations


def test_the_schema_is_of_the_version_that_the_sandbox_names() -> None:
    assert SCHEMA["version"] == API_VERSION == stripe.api_version


async def _response(sandbox: RunningSandbox, path: str) -> Any:
    return (await sandbox.http.get(path, headers={"authorization": f"Bearer {API_KEY}"})).json()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"status": "paid"}, ["payment_intent.status: "]),
        ({"livemode": None}, ["payment_intent.livemode: null is not"]),
        ({"metadata": {"attempt": 1}}, ["payment_intent.metadata.attempt: 1 is not"]),
        ({"seller": "alice"}, ["payment_intent: Additional properties are not allowed ('seller'"]),
        ({"latest_charge": {"object": "charge", "paid": 1}}, ["payment_intent.latest_charge"]),
        ({"object": "order"}, ["order is not in schema.json"]),
    ],
)
async def test_a_difference_is_named(sandbox: RunningSandbox, change: dict[str, Any], expected: list[str]) -> None:
    intent = await authorized(sandbox.client)
    body = await _response(sandbox, f"/v1/payment_intents/{intent.id}")
    found = violations(body | change)
    assert [each for each in expected if not any(one.startswith(each) for one in found)] == []
    assert bool(found) == bool(expected)


async def test_a_missing_field_is_named_in_a_list_an_event_and_an_error(sandbox: RunningSandbox) -> None:
    await authorized(sandbox.client)
    intents = await _response(sandbox, "/v1/payment_intents")
    [event] = (await _response(sandbox, "/v1/events"))["data"]
    error = await _response(sandbox, "/v1/payment_intents/pi_of_nobody")
    for body, incomplete, name in (
        (intents, intents["data"][0], "payment_intent"),
        (event, event["data"]["object"], "payment_intent.amount_capturable_updated.data.object"),
        (error, error["error"], "error"),
    ):
        assert violations(body) == []
        field = "type" if name == "error" else "review"
        del incomplete[field]
        assert violations(body) == [f'{name}: "{field}" is a required property']
