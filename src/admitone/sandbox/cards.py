"""The documented test cards, by the names Stripe gives their tokens and payment methods.

Source: Stripe documentation, "Testing": cards by brand, declined payments, 3D Secure authentication.
"""

from dataclasses import dataclass
from typing import Final

from admitone.sandbox.problems import Json


@dataclass(frozen=True)
class Refusal:
    """Why a bank says no: Stripe's error code, the bank's reason, and the words for the buyer."""

    code: str
    decline_code: str | None
    message: str


@dataclass(frozen=True)
class Card:
    """What a test card does when it is charged."""

    payment_method: str
    brand: str = "visa"
    last4: str = "4242"
    refusal: Refusal | None = None
    needs_authentication: bool = False

    def details(self) -> Json:
        """Return the card as the API shows it: its brand and last four digits."""
        return {"brand": self.brand, "last4": self.last4, "funding": "credit", "country": "US"}


_DECLINED: Final = Refusal("card_declined", "generic_decline", "Your card was declined.")
_INSUFFICIENT_FUNDS: Final = Refusal("card_declined", "insufficient_funds", "Your card has insufficient funds.")
_LOST: Final = Refusal("card_declined", "lost_card", "Your card was declined.")
_STOLEN: Final = Refusal("card_declined", "stolen_card", "Your card was declined.")
_EXPIRED: Final = Refusal("expired_card", None, "Your card has expired.")
_WRONG_CVC: Final = Refusal("incorrect_cvc", None, "Your card's security code is incorrect.")
_PROCESSING: Final = Refusal(
    "processing_error", None, "An error occurred while processing your card. Try again in a little bit."
)

# By the part of the name after `pm_card_` or `tok_`; the names with and without the brand are both documented.
_REFUSING: Final = {
    "chargeDeclined": ("0002", _DECLINED),
    "chargeDeclinedInsufficientFunds": ("9995", _INSUFFICIENT_FUNDS),
    "chargeDeclinedLostCard": ("9987", _LOST),
    "chargeDeclinedStolenCard": ("9979", _STOLEN),
    "chargeDeclinedExpiredCard": ("0069", _EXPIRED),
    "chargeDeclinedIncorrectCvc": ("0127", _WRONG_CVC),
    "chargeDeclinedProcessingError": ("0119", _PROCESSING),
}
_ACCEPTED: Final = {
    "visa": ("visa", "4242"),
    "visa_debit": ("visa", "5556"),
    "mastercard": ("mastercard", "4444"),
    "mastercard_debit": ("mastercard", "8210"),
    "amex": ("amex", "8431"),
    "discover": ("discover", "1117"),
    "us": ("visa", "4242"),
}
_AUTHENTICATING: Final = {
    "authenticationRequired": "3184",
    "threeDSecure2Required": "3220",
    "threeDSecureRequired": "3063",
}


def _cards() -> dict[str, Card]:
    cards = {name: Card(f"pm_card_{name}", brand, last4) for name, (brand, last4) in _ACCEPTED.items()}
    for name, (last4, refusal) in _REFUSING.items():
        for known_as in (name, f"visa_{name}"):
            cards[known_as] = Card(f"pm_card_{known_as}", last4=last4, refusal=refusal)
    for name, last4 in _AUTHENTICATING.items():
        cards[name] = Card(f"pm_card_{name}", last4=last4, needs_authentication=True)
    return cards


_CARDS: Final = _cards()


def by_payment_method(name: str) -> Card | None:
    """Return the card that a payment method such as `pm_card_visa` stands for."""
    return _CARDS.get(name.removeprefix("pm_card_")) if name.startswith("pm_card_") else None


def by_token(name: str) -> Card | None:
    """Return the card that a token such as `tok_visa` stands for."""
    return _CARDS.get(name.removeprefix("tok_")) if name.startswith("tok_") else None
