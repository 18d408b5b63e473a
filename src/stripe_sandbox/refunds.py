"""Refunds: what was captured is returned to the card, wholly or in parts."""

from typing import Literal

import stripe.params as sdk
from msgspec import field

from stripe_sandbox import charges
from stripe_sandbox.errors import ApiError, Json
from stripe_sandbox.operations import Context, new_id, operation
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
    refund: Json = {
        "id": new_id("re"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": context.now,
        "currency": charge["currency"],
        "metadata": {name: value for name, value in params.metadata.items() if value},
        "payment_intent": intent["id"],
        "reason": params.reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }
    charge = charges.refunded(charge, amount)
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
