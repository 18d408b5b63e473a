"""The routes of payments: pay an order, see what became of it, and Stripe's way in."""

import asyncio
from typing import Final

from admitone.kernel import clock
from admitone.kernel.errors import Invalid
from admitone.kernel.http.app import read_bytes
from admitone.kernel.http.operations import ACCEPTED, CREATED, OK, Request, Response, operation
from admitone.kernel.messaging.replicas import wait_for_replica
from admitone.kernel.tracing import current_traceparent
from admitone.payments import store
from admitone.payments.gateway import Forged
from admitone.payments.jobs import return_url
from admitone.payments.model import (
    TOKEN_INVALID,
    BeingPaid,
    CardRefused,
    NoAttemptsLeft,
    NoSuchOrder,
    NotYourOrder,
    OrderHasExpired,
    OrderIsCancelled,
    Payment,
    TokenRefused,
)
from admitone.payments.paying import Ask, Begun, Learnt, attempts_left
from admitone.payments.resources import Resources
from admitone.payments.views import NewPayment, PaymentsOf, PaymentsView, PaymentView, view

# How long somebody who asks for a payment that is under way waits for its outcome.
_FOLLOW_SECONDS: Final = 8.0
_FIRST_PAUSE_SECONDS: Final = 0.02
_PAUSE_SECONDS_MAX: Final = 0.25


@operation(
    "POST",
    "/api/payments",
    status=CREATED,
    body=NewPayment,
    returns=PaymentView,
    raises=(NotYourOrder, NoSuchOrder, OrderIsCancelled, OrderHasExpired, NoAttemptsLeft, CardRefused, BeingPaid),
    signed_in=True,
    idempotent=True,
    other_responses={ACCEPTED: "The bank's response is still out: the payment is `pending` and settles by itself."},
)
async def pay_order(request: Request[NewPayment, Resources]) -> Response:
    """Pay an order.

    The money is held, and taken once the order is the buyer's. `requires_action` asks the buyer to confirm at the
    bank. Where the bank's response is still out, the response is 202 with status `pending`: the payment settles by
    itself and must not be repeated. The same request again gives the same payment and never a second charge.
    """
    ask = Ask(
        request.input.order_id,
        request.user.id,
        request.input.token,
        request.idempotency_key,
        traceparent=current_traceparent(),
    )
    begun = await _begin(request, ask)
    payment = begun.payment
    assert payment is not None
    if begun.kind == "new":
        finding = await request.resources.stripe.authorise(payment, return_url(request.service, payment.order_id))
        payment = await request.resources.learn(Learnt(payment.id, finding))
    else:
        payment = await _followed(request, payment, until_not="created")
    return _answer(payment)


async def _begin(request: Request[NewPayment, Resources], ask: Ask) -> Begun:
    """Begin a payment, or find the same one; where another is being given up, wait for that first."""
    deadline = clock.monotonic_seconds() + _FOLLOW_SECONDS
    while True:
        begun = await wait_for_replica(
            lambda: request.resources.begin(ask), ask.order_id, is_missing=lambda each: each.refusal is NoSuchOrder
        )
        if begun.refusal is not None:
            raise begun.refusal
        if begun.kind != "other":
            return begun
        assert begun.payment is not None
        await _followed(request, begun.payment, until_not=begun.payment.state)
        if clock.monotonic_seconds() >= deadline:
            raise BeingPaid


async def _followed(request: Request[NewPayment, Resources], payment: Payment, *, until_not: str) -> Payment:
    """Return a payment once it has left a state, or as it is when that takes too long."""
    deadline = clock.monotonic_seconds() + _FOLLOW_SECONDS
    pause_seconds = _FIRST_PAUSE_SECONDS
    while payment.state == until_not and clock.monotonic_seconds() < deadline:
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 2, _PAUSE_SECONDS_MAX)
        found = await store.payment(request.db, payment.id)
        assert found is not None
        payment = found
    return payment


def _answer(payment: Payment) -> Response:
    match payment.state:
        case "failed":
            raise TokenRefused if payment.reason_code == TOKEN_INVALID else CardRefused(payment.reason)
        case "voided" | "refunded":
            raise OrderIsCancelled
        case _ if payment.wanted in {"void", "refund"}:
            raise OrderIsCancelled
        case "created":
            return Response(ACCEPTED, view(payment))
        case "requires_action":
            return Response(CREATED, view(payment))
        case "authorized" | "captured":
            # Taking the money is not the buyer's doing: whoever repeats the request gets the same response.
            return Response(CREATED, view(payment, "authorized"))


@operation(
    "GET",
    "/api/payments",
    query=PaymentsOf,
    returns=PaymentsView,
    raises=(NotYourOrder, NoSuchOrder),
    signed_in=True,
)
async def list_payments(request: Request[PaymentsOf, Resources]) -> Response:
    """List every attempt to pay one of the caller's orders, newest first."""
    asked = request.input
    order = await wait_for_replica(
        lambda: store.order(request.db, asked.order_id), asked.order_id, is_missing=lambda each: each is None
    )
    if order is None:
        raise NoSuchOrder
    if order.user_id != request.user.id:
        raise NotYourOrder
    payments = await store.payments_of(request.db, [order.id])
    left = attempts_left(payments, request.resources.payment_attempts) if order.status == "created" else 0
    return Response(OK, PaymentsView([view(each) for each in reversed(payments)], left))


class NotFromStripe(Invalid):
    """The signature is not valid"""


@operation(
    "POST",
    "/api/payments/webhook",
    raises=(NotFromStripe,),
    request_headers={"Stripe-Signature": "Stripe's signature of the body, not older than five minutes."},
    raw_body=True,
)
async def hear_stripe(request: Request[None, Resources]) -> Response:
    """Take what Stripe tells; it is stored before it is answered and worked off afterwards."""
    body = await read_bytes(request.http)
    try:
        told = request.resources.stripe.heard(body, request.header("stripe-signature"))
    except Forged:
        raise NotFromStripe from None
    await request.resources.store_webhook((told.id, body.decode()))
    return Response(OK, {})
