"""Charges: each attempt to take money from a card, successful or not."""

from stripe_sandbox.cards import Card, Decline
from stripe_sandbox.errors import Json
from stripe_sandbox.operations import new_id


def new(intent: Json, card: Card, now: int, decline: Decline | None = None) -> Json:
    """Return the charge for the whole amount of a PaymentIntent: authorized and not captured, or declined."""
    return {
        "id": new_id("ch"),
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "captured": False,
        "created": now,
        "currency": intent["currency"],
        "description": intent["description"],
        "failure_code": decline.code if decline else None,
        "failure_message": decline.message if decline else None,
        "livemode": False,
        "metadata": intent["metadata"],
        "paid": decline is None,
        "payment_intent": intent["id"],
        "payment_method": card.payment_method,
        "refunded": False,
        "status": "failed" if decline else "succeeded",
    }


def captured(charge: Json, amount: int) -> Json:
    assert not charge["captured"]
    assert 0 < amount <= charge["amount"]
    return charge | {"amount_captured": amount, "captured": True}


def refunded(charge: Json, amount: int) -> Json:
    total = charge["amount_refunded"] + amount
    assert 0 < total <= charge["amount_captured"]
    return charge | {"amount_refunded": total, "refunded": total == charge["amount_captured"]}
