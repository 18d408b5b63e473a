"""Stripe's test cards, by the names of their tokens (`tok_visa`) and payment methods (`pm_card_visa`).

A confirmation token stands for a card too: Stripe's page elements create it from what the buyer typed; it pays once.
Source: Stripe documentation, "Testing": cards by brand, declined payments, 3D Secure authentication.
"""

from dataclasses import dataclass
from typing import Final

from stripe.params.test_helpers import ConfirmationTokenCreateParams

from stripe_sandbox.errors import Json, no_such
from stripe_sandbox.operations import Context, operation
from stripe_sandbox.parameters import Params

_CONFIRMATION_TOKEN_SECONDS: Final = 12 * 3600


@dataclass(frozen=True)
class Decline:
    """Why a payment is refused; `message` is meant for the buyer."""

    code: str
    decline_code: str | None
    message: str


@dataclass(frozen=True)
class Card:
    """What a test card does when it is charged."""

    name: str
    last4: str = "4242"
    brand: str = "visa"
    decline: Decline | None = None
    requires_authentication: bool = False

    @property
    def payment_method(self) -> str:
        return f"pm_card_{self.name}"

    def as_payment_method(self, context: Context) -> Json:
        """Return the PaymentMethod as the API shows it inside an error."""
        method = context.new("payment_method", "pm", id=self.payment_method)
        return method | {"card": method["card"] | {"brand": self.brand, "last4": self.last4}}


_BY_BANK: Final = "Your card was declined."
_PROCESSING: Final = "An error occurred while processing your card. Try again in a little bit."
_DECLINES: Final = {
    ("", "0002"): Decline("card_declined", "generic_decline", _BY_BANK),
    ("InsufficientFunds", "9995"): Decline("card_declined", "insufficient_funds", "Your card has insufficient funds."),
    ("LostCard", "9987"): Decline("card_declined", "lost_card", _BY_BANK),
    ("StolenCard", "9979"): Decline("card_declined", "stolen_card", _BY_BANK),
    ("ExpiredCard", "0069"): Decline("expired_card", None, "Your card has expired."),
    ("IncorrectCvc", "0127"): Decline("incorrect_cvc", None, "Your card's security code is incorrect."),
    ("ProcessingError", "0119"): Decline("processing_error", None, _PROCESSING),
}
_CARDS: Final = [
    Card("visa"),
    Card("us"),
    Card("visa_debit", "5556"),
    Card("mastercard", "4444", "mastercard"),
    Card("mastercard_debit", "8210", "mastercard"),
    Card("amex", "8431", "amex"),
    Card("discover", "1117", "discover"),
    Card("authenticationRequired", "3184", requires_authentication=True),
    Card("threeDSecure2Required", "3220", requires_authentication=True),
    Card("threeDSecureRequired", "3063", requires_authentication=True),
    # Documented with and without the brand.
    *(Card(f"chargeDeclined{why}", last4, decline=decline) for (why, last4), decline in _DECLINES.items()),
    *(Card(f"visa_chargeDeclined{why}", last4, decline=decline) for (why, last4), decline in _DECLINES.items()),
]

BY_PAYMENT_METHOD: Final = {card.payment_method: card for card in _CARDS}
BY_TOKEN: Final = {f"tok_{card.name}": card for card in _CARDS}
_BY_LAST4: Final = {card.last4: card for card in reversed(_CARDS)}
_PREVIEW: Final = ("billing_details", "card", "customer", "customer_account", "type")


class ConfirmationTokenParams(Params):
    payment_method: str
    return_url: str | None = None


@operation("POST", "/v1/test_helpers/confirmation_tokens", ConfirmationTokenCreateParams)
def create_confirmation_token(context: Context, params: ConfirmationTokenParams) -> Json:
    if params.payment_method not in BY_PAYMENT_METHOD:
        raise no_such("PaymentMethod", params.payment_method, "payment_method")
    method = BY_PAYMENT_METHOD[params.payment_method].as_payment_method(context)
    token = context.new(
        "confirmation_token",
        "ctoken",
        expires_at=context.now + _CONFIRMATION_TOKEN_SECONDS,
        payment_method_preview={name: method[name] for name in _PREVIEW},
        return_url=params.return_url,
    )
    context.store.save(token)
    return token


def use_confirmation_token(context: Context, token_id: str, intent_id: str) -> tuple[Card, str | None]:
    """Return the card and the return URL of a token, and mark it as used for a PaymentIntent; raises ApiError."""
    token = context.load("confirmation_token", token_id, "confirmation_token")
    if token["payment_intent"] is not None:
        raise no_such("confirmation_token", token_id, "confirmation_token")
    context.store.save(token | {"payment_intent": intent_id})
    return _BY_LAST4[token["payment_method_preview"]["card"]["last4"]], token["return_url"]
