"""Charges, one for each attempt to take money from a card, and their refunds, wholly or in parts."""

from typing import Literal

import stripe.params as sdk
from msgspec import field

from stripe_sandbox.cards import Decline
from stripe_sandbox.errors import ApiError, Json
from stripe_sandbox.operations import Context, operation
from stripe_sandbox.parameters import ListParams, Metadata, Params, PositiveCents


class RefundParams(Params):
    payment_intent: str
    amount: PositiveCents | None = None
    reason: Literal["duplicate", "fraudulent", "requested_by_customer"] | None = None
    metadata: Metadata = field(default_factory=dict)


class ListRefundsParams(ListParams):
    payment_intent: str | None = None


@operation("POST", "/v1/refunds", sdk.RefundCreateParams)
def create_refund(context: Context, params: RefundParams) -> Json:
    intent = context.load("payment_intent", params.payment_intent, "payment_intent")
    if intent["status"] != "succeeded":
        raise ApiError(f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.")
    charge = context.load("charge", intent["latest_charge"], "charge")
    left: int = charge["amount_captured"] - charge["amount_refunded"]
    if left == 0:
        raise ApiError(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    amount = params.amount or left
    if amount > left:
        message = f"Refund amount ({amount} cents) is greater than unrefunded amount on charge ({left} cents)"
        raise ApiError(message, param="amount")
    refund = context.new(
        "refund",
        "re",
        amount=amount,
        charge=charge["id"],
        currency=charge["currency"],
        metadata={name: value for name, value in params.metadata.items() if value},
        payment_intent=intent["id"],
        payment_method=charge["payment_method"],
        reason=params.reason,
    )
    charge["amount_refunded"] += amount
    charge["refunded"] = amount == left
    context.store.save(refund)
    context.store.save(charge)
    context.publish("refund.created", refund)
    context.publish("charge.refunded", charge)
    return refund


@operation("GET", "/v1/refunds/{id}", sdk.RefundRetrieveParams)
def retrieve_refund(context: Context, _params: Params) -> Json:
    return context.load("refund", context.object_id, "refund")


@operation("GET", "/v1/refunds", sdk.RefundListParams)
def list_refunds(context: Context, params: ListRefundsParams) -> Json:
    return context.list("refund", params, payment_intent=params.payment_intent)


def new(context: Context, intent: Json, decline: Decline | None = None) -> Json:
    """Return the charge for the whole amount of a PaymentIntent: authorized and not captured, or declined."""
    same = ("amount", "currency", "description", "metadata", "payment_method")
    charge = context.new("charge", "ch", payment_intent=intent["id"], **{name: intent[name] for name in same})
    if decline is not None:
        charge |= {"failure_code": decline.code, "failure_message": decline.message, "paid": False, "status": "failed"}
    return charge
