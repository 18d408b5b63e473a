"""Confirmation tokens, as Stripe's page elements create them from what the buyer typed; each pays once."""

from typing import Final

from stripe.params.test_helpers import ConfirmationTokenCreateParams

from stripe_sandbox import cards
from stripe_sandbox.errors import Json, no_such
from stripe_sandbox.operations import Context, new_id, operation
from stripe_sandbox.parameters import Params

_VALID_SECONDS: Final = 12 * 3600


class ConfirmationTokenParams(Params):
    payment_method: str
    return_url: str | None = None


@operation("POST", "/v1/test_helpers/confirmation_tokens", ConfirmationTokenCreateParams)
def create_confirmation_token(context: Context, params: ConfirmationTokenParams) -> Json:
    if params.payment_method not in cards.BY_PAYMENT_METHOD:
        raise no_such("PaymentMethod", params.payment_method, "payment_method")
    token = {
        "id": new_id("ctoken"),
        "object": "confirmation_token",
        "created": context.now,
        "expires_at": context.now + _VALID_SECONDS,
        "livemode": False,
        "payment_intent": None,
        "payment_method": params.payment_method,
        "return_url": params.return_url,
        "use_stripe_sdk": True,
    }
    context.store.save(token)
    return token


def use(context: Context, token_id: str, intent_id: str) -> Json:
    """Return a token that was not used before, and mark it as used for a PaymentIntent; raises ApiError."""
    token = context.load("confirmation_token", token_id, "confirmation_token")
    if token["payment_intent"] is not None:
        raise no_such("confirmation_token", token_id, "confirmation_token")
    context.store.save(token | {"payment_intent": intent_id})
    return token
