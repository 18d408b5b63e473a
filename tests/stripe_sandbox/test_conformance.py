"""The sandbox behaves as Stripe does: the same tests run against Stripe's test mode when a key for it is given.

Only what is documented is asserted; messages may differ.
"""

import asyncio
from typing import Any, cast

import pytest
import stripe
from stripe.params import PaymentIntentCreateParams, PaymentIntentListParams

from stripe_sandbox.operations import OPERATIONS, ApiOperation
from tests.stripe_sandbox.running import RETURN_URL, authorized, key, order

# What the SDK's own transport does to httpx; ours, which the gateway uses, does not.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content")


@pytest.mark.parametrize("card", ["pm_card_visa", "pm_card_mastercard"])
async def test_a_good_card_is_authorized_and_not_captured(provider: stripe.StripeClient, card: str) -> None:
    intent = await provider.v1.payment_intents.create_async(order(payment_method=card, description="Row 4"))
    assert intent.status == "requires_capture"
    assert (intent.amount, intent.amount_capturable, intent.amount_received) == (1999, 1999, 0)
    assert intent.currency == "usd"
    assert intent.description == "Row 4"
    assert intent.livemode is False
    assert intent.client_secret
    assert intent.client_secret.startswith(f"{intent.id}_secret_")


async def test_a_token_pays_like_its_card(provider: stripe.StripeClient) -> None:
    params = order(payment_method_data={"type": "card", "card": {"token": "tok_visa"}})
    del params["payment_method"]
    intent = await provider.v1.payment_intents.create_async(params)
    assert intent.status == "requires_capture"


async def test_a_confirmation_token_pays_once(provider: stripe.StripeClient) -> None:
    token = await provider.v1.test_helpers.confirmation_tokens.create_async(
        {"payment_method": "pm_card_visa", "return_url": RETURN_URL}
    )
    params = order(confirmation_token=token.id)
    del params["payment_method"], params["return_url"]
    assert (await provider.v1.payment_intents.create_async(params)).status == "requires_capture"
    with pytest.raises(stripe.InvalidRequestError):
        await provider.v1.payment_intents.create_async(params)


@pytest.mark.parametrize(
    ("card", "code", "decline_code"),
    [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", None),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc", None),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", None),
    ],
)
async def test_a_bad_card_is_declined_with_the_reason(
    provider: stripe.StripeClient, card: str, code: str, decline_code: str | None
) -> None:
    with pytest.raises(stripe.CardError) as refused:
        await provider.v1.payment_intents.create_async(order(payment_method=card))
    assert refused.value.http_status == 402
    assert refused.value.code == code
    assert refused.value.user_message
    error = refused.value.error
    assert error is not None
    assert error.type == "card_error"
    if decline_code is not None:
        assert error.decline_code == decline_code
    assert error.payment_intent is not None
    assert error.payment_intent.status == "requires_payment_method"
    found = await provider.v1.payment_intents.retrieve_async(error.payment_intent.id)
    assert found.status == "requires_payment_method"
    assert found.last_payment_error is not None
    assert found.last_payment_error.code == code


async def test_a_declined_intent_can_be_confirmed_with_another_card(provider: stripe.StripeClient) -> None:
    with pytest.raises(stripe.CardError) as refused:
        await provider.v1.payment_intents.create_async(order(payment_method="pm_card_chargeDeclined"))
    assert refused.value.error is not None
    assert refused.value.error.payment_intent is not None
    intent = await provider.v1.payment_intents.confirm_async(
        refused.value.error.payment_intent.id, {"payment_method": "pm_card_visa", "return_url": RETURN_URL}
    )
    assert intent.status == "requires_capture"


async def test_an_intent_can_be_created_first_and_confirmed_later(provider: stripe.StripeClient) -> None:
    params = order(confirm=False)
    del params["return_url"]
    intent = await provider.v1.payment_intents.create_async(params)
    assert intent.status == "requires_confirmation"
    intent = await provider.v1.payment_intents.confirm_async(intent.id, {"return_url": RETURN_URL})
    assert intent.status == "requires_capture"


@pytest.mark.parametrize("card", ["pm_card_authenticationRequired", "pm_card_threeDSecure2Required"])
async def test_a_card_that_requires_authentication_redirects_the_buyer(
    provider: stripe.StripeClient, card: str
) -> None:
    intent = await provider.v1.payment_intents.create_async(order(payment_method=card))
    assert intent.status == "requires_action"
    assert intent.next_action is not None
    assert intent.next_action.type == "redirect_to_url"
    assert intent.next_action.redirect_to_url is not None
    assert intent.next_action.redirect_to_url.url
    assert intent.next_action.redirect_to_url.return_url == RETURN_URL


async def test_without_a_return_url_stripe_js_shows_the_page(provider: stripe.StripeClient) -> None:
    params = order(
        payment_method="pm_card_authenticationRequired",
        automatic_payment_methods={"enabled": True, "allow_redirects": "never"},
    )
    del params["return_url"]
    intent = await provider.v1.payment_intents.create_async(params)
    assert intent.status == "requires_action"
    assert intent.next_action is not None
    assert intent.next_action.type == "use_stripe_sdk"


async def test_payment_methods_that_redirect_need_a_return_url(provider: stripe.StripeClient) -> None:
    params = order()
    del params["return_url"]
    with pytest.raises(stripe.InvalidRequestError):
        await provider.v1.payment_intents.create_async(params)


async def test_a_capture_takes_exactly_what_is_authorized(provider: stripe.StripeClient) -> None:
    intent = await authorized(provider)
    captured = await provider.v1.payment_intents.capture_async(intent.id)
    assert captured.status == "succeeded"
    assert (captured.amount_capturable, captured.amount_received) == (0, 1999)


async def test_a_capture_can_take_less_but_never_more(provider: stripe.StripeClient) -> None:
    intent = await authorized(provider)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await provider.v1.payment_intents.capture_async(intent.id, {"amount_to_capture": 2000})
    assert refused.value.code == "amount_too_large"
    captured = await provider.v1.payment_intents.capture_async(intent.id, {"amount_to_capture": 999})
    assert captured.amount_received == 999


async def test_an_intent_is_captured_once(provider: stripe.StripeClient) -> None:
    intent = await authorized(provider)
    await provider.v1.payment_intents.capture_async(intent.id)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await provider.v1.payment_intents.capture_async(intent.id)
    assert refused.value.code == "payment_intent_unexpected_state"


async def test_a_canceled_intent_holds_nothing_and_cannot_be_captured(provider: stripe.StripeClient) -> None:
    intent = await authorized(provider)
    canceled = await provider.v1.payment_intents.cancel_async(intent.id, {"cancellation_reason": "abandoned"})
    assert (canceled.status, canceled.amount_capturable) == ("canceled", 0)
    assert canceled.cancellation_reason == "abandoned"
    for change in (provider.v1.payment_intents.capture_async, provider.v1.payment_intents.cancel_async):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            await change(intent.id)
        assert refused.value.code == "payment_intent_unexpected_state"


async def test_a_captured_intent_cannot_be_canceled(provider: stripe.StripeClient) -> None:
    intent = await authorized(provider)
    await provider.v1.payment_intents.capture_async(intent.id)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await provider.v1.payment_intents.cancel_async(intent.id)
    assert refused.value.code == "payment_intent_unexpected_state"


async def test_no_more_is_refunded_than_was_captured(provider: stripe.StripeClient) -> None:
    intent = await authorized(provider)
    await provider.v1.payment_intents.capture_async(intent.id)
    part = await provider.v1.refunds.create_async({"payment_intent": intent.id, "amount": 999})
    assert (part.status, part.amount, part.payment_intent) == ("succeeded", 999, intent.id)
    with pytest.raises(stripe.InvalidRequestError):
        await provider.v1.refunds.create_async({"payment_intent": intent.id, "amount": 1001})
    rest = await provider.v1.refunds.create_async({"payment_intent": intent.id, "metadata": {"why": "test"}})
    assert rest.amount == 1000
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await provider.v1.refunds.create_async({"payment_intent": intent.id})
    assert refused.value.code == "charge_already_refunded"
    found = await provider.v1.refunds.list_async({"payment_intent": intent.id})
    assert [each.id for each in found.data] == [rest.id, part.id]
    assert (await provider.v1.refunds.retrieve_async(part.id)).amount == 999


async def test_an_intent_that_is_only_authorized_cannot_be_refunded(provider: stripe.StripeClient) -> None:
    intent = await authorized(provider)
    with pytest.raises(stripe.InvalidRequestError):
        await provider.v1.refunds.create_async({"payment_intent": intent.id})


async def test_the_charge_can_be_expanded(provider: stripe.StripeClient) -> None:
    intent = await authorized(provider, expand=["latest_charge"])
    assert isinstance(intent.latest_charge, stripe.Charge)
    assert intent.latest_charge.captured is False
    await provider.v1.payment_intents.capture_async(intent.id)
    found = await provider.v1.payment_intents.retrieve_async(intent.id, {"expand": ["latest_charge"]})
    assert isinstance(found.latest_charge, stripe.Charge)
    assert (found.latest_charge.captured, found.latest_charge.amount_captured) == (True, 1999)


async def test_the_same_key_and_request_have_one_effect(provider: stripe.StripeClient) -> None:
    params, options = order(), key()
    first = await provider.v1.payment_intents.create_async(params, options)
    again = await provider.v1.payment_intents.create_async(params, options)
    assert again.id == first.id
    assert again.last_response is not None
    assert again.last_response.headers["idempotent-replayed"] == "true"


async def test_the_same_key_with_another_request_is_refused(provider: stripe.StripeClient) -> None:
    options = key()
    await provider.v1.payment_intents.create_async(order(), options)
    with pytest.raises(stripe.IdempotencyError) as refused:
        await provider.v1.payment_intents.create_async(order(), options)
    assert refused.value.http_status == 400


async def test_a_decline_is_repeated_for_its_key(provider: stripe.StripeClient) -> None:
    params, options = order(payment_method="pm_card_chargeDeclined"), key()
    found = []
    for _ in range(2):
        with pytest.raises(stripe.CardError) as refused:
            await provider.v1.payment_intents.create_async(params, options)
        assert refused.value.error is not None
        assert refused.value.error.payment_intent is not None
        found.append(refused.value.error.payment_intent.id)
    assert found[0] == found[1]


async def test_a_request_with_invalid_parameters_does_not_use_up_its_key(provider: stripe.StripeClient) -> None:
    options = key()
    with pytest.raises(stripe.InvalidRequestError):
        await provider.v1.payment_intents.create_async(order(amuont=1), options)
    assert (await provider.v1.payment_intents.create_async(order(), options)).status == "requires_capture"


async def test_concurrent_requests_with_the_same_key_have_one_effect(provider: stripe.StripeClient) -> None:
    params, options = order(), key()
    answers = await asyncio.gather(
        *(provider.v1.payment_intents.create_async(params, {**options, "max_network_retries": 5}) for _ in range(4))
    )
    assert len({each.id for each in answers}) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"amuont": 1999}, "parameter_unknown"),
        ({"automatic_payment_methods": {"enabled": True, "always": True}}, "parameter_unknown"),
        ({"payment_method_data": {"type": "card", "card": {"token": "tok_visa"}, "kind": 1}}, "parameter_unknown"),
        ({"amount": 49}, "amount_too_small"),
        ({"amount": 100_000_000}, "amount_too_large"),
        ({"amount": "19.99"}, "parameter_invalid_integer"),
        ({"payment_method": "pm_card_nobody"}, "resource_missing"),
    ],
)
async def test_invalid_parameters_are_refused(provider: stripe.StripeClient, change: dict[str, Any], code: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await provider.v1.payment_intents.create_async(order(**change))
    assert refused.value.http_status == 400
    assert refused.value.code == code


async def test_a_missing_parameter_is_named(provider: stripe.StripeClient) -> None:
    params = cast("PaymentIntentCreateParams", {"currency": "usd"})
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await provider.v1.payment_intents.create_async(params)
    assert (refused.value.code, refused.value.param) == ("parameter_missing", "amount")


async def test_an_unknown_intent_is_not_found(provider: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await provider.v1.payment_intents.retrieve_async("pi_of_nobody")
    assert (refused.value.http_status, refused.value.code) == (404, "resource_missing")


@pytest.mark.parametrize("cursor", ["starting_after", "ending_before"])
async def test_an_unknown_cursor_is_named(provider: stripe.StripeClient, cursor: str) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await provider.v1.payment_intents.list_async(cast("PaymentIntentListParams", {cursor: "pi_of_nobody"}))
    assert (refused.value.http_status, refused.value.code) == (400, "resource_missing")
    assert refused.value.param == cursor


async def test_what_a_parameter_names_and_does_not_exist_is_an_invalid_parameter(provider: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await provider.v1.test_helpers.confirmation_tokens.create_async({"payment_method": "pm_card_nobody"})
    assert (refused.value.http_status, refused.value.code) == (400, "resource_missing")
    assert refused.value.param == "payment_method"
    params = order(confirmation_token="ctoken_of_nobody")
    del params["payment_method"]
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await provider.v1.payment_intents.create_async(params)
    assert (refused.value.http_status, refused.value.code) == (400, "resource_missing")
    assert refused.value.param == "confirmation_token"


async def test_a_list_is_paged_through_newest_first(provider: stripe.StripeClient) -> None:
    made = [(await authorized(provider)).id for _ in range(5)]
    first = await provider.v1.payment_intents.list_async({"limit": 2})
    assert [each.id for each in first.data] == made[:2:-1]
    assert first.has_more
    second = await provider.v1.payment_intents.list_async({"limit": 2, "starting_after": first.data[-1].id})
    assert [each.id for each in second.data] == made[2:0:-1]
    back = await provider.v1.payment_intents.list_async({"limit": 2, "ending_before": second.data[0].id})
    assert [each.id for each in back.data] == [each.id for each in first.data]
    found = [each.id async for each in first.auto_paging_iter()]
    assert found[:5] == made[::-1]


async def test_a_list_can_be_filtered_by_creation_time(provider: stripe.StripeClient) -> None:
    intent = await authorized(provider)
    found = await provider.v1.payment_intents.list_async({"created": {"gte": intent.created, "lte": intent.created}})
    assert intent.id in [each.id for each in found.data]
    found = await provider.v1.payment_intents.list_async({"created": intent.created})
    assert intent.id in [each.id for each in found.data]
    later = await provider.v1.payment_intents.list_async({"created": {"gt": intent.created + 60}})
    assert intent.id not in [each.id for each in later.data]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
def test_every_offered_parameter_is_one_of_stripe_s(operation: ApiOperation) -> None:
    assert set(operation.params.__struct_fields__) <= set(operation.sdk_params.__annotations__)


async def test_the_account_of_a_key_is_always_the_same(provider: stripe.StripeClient) -> None:
    account = await provider.v1.accounts.retrieve_current_async()
    assert account.id.startswith("acct_")
    assert (await provider.v1.accounts.retrieve_current_async()).id == account.id
