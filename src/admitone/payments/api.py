"""The routes of payments: pay an order, list its payments, and receive Stripe's webhooks."""

import asyncio
from typing import Final

from admitone.kernel import clock, ids
from admitone.kernel.errors import Invalid, Refusal
from admitone.kernel.http.operations import ACCEPTED, CREATED, OK, Request, Response, operation
from admitone.kernel.messaging.replicas import wait_for_replica
from admitone.kernel.tracing import current_traceparent
from admitone.payments import store
from admitone.payments.beginning import (
    Begun,
    NoAttemptsLeft,
    NoSuchOrder,
    NotYourOrder,
    OrderHasExpired,
    OrderIsCancelled,
    PaymentInProgress,
    PaymentRequest,
    attempts_left,
)
from admitone.payments.gateway import ForgedWebhook
from admitone.payments.jobs import return_url
from admitone.payments.model import TOKEN_INVALID, CardDeclined, InvalidToken, Payment, State
from admitone.payments.resources import Resources
from admitone.payments.views import NewPayment, PaymentsOf, PaymentsView, PaymentView, view

# How long a request waits for the outcome of a payment that another request began.
_WAIT_SECONDS: Final = 8.0
_FIRST_PAUSE_SECONDS: Final = 0.02
_PAUSE_SECONDS_MAX: Final = 0.25
# How often the buyer's page can cause a request to Stripe.
_CHECKED_SECONDS: Final = 5.0


@operation(
    "POST",
    "/api/payments",
    status=CREATED,
    body=NewPayment,
    returns=PaymentView,
    raises=(
        *(NotYourOrder, NoSuchOrder, OrderIsCancelled, OrderHasExpired, NoAttemptsLeft),
        *(CardDeclined, PaymentInProgress),
    ),
    signed_in=True,
    idempotent=True,
    other_responses={ACCEPTED: "The outcome is not known yet: the payment is `pending` and settles by itself."},
)
async def pay_order(request: Request[NewPayment, Resources]) -> Response:
    """Pay an order.

    The money is held, and captured once the order is the buyer's. With `requires_action` the buyer must authenticate
    at the bank. If the outcome is not known in time, the response is 202 with status `pending`: the payment settles
    by itself and must not be repeated. A repeated request returns the same payment and never makes a second charge.
    """
    new = PaymentRequest(
        payment_id=ids.new_id(),
        order_id=request.input.order_id,
        buyer_id=request.user.id,
        token=request.input.token,
        idempotency_key=request.idempotency_key,
        traceparent=current_traceparent(),
    )
    begun = await _begin(request, new)
    payment = begun.payment
    if begun.kind == "new":
        result = await request.resources.gateway.authorize(payment, return_url(request.service, payment.order_id))
        payment = await request.resources.apply((payment.id, result))
    else:
        payment = await _wait_while(request, payment, "created")
    return _response(payment)


async def _begin(request: Request[NewPayment, Resources], new: PaymentRequest) -> Begun:
    """Begin a payment or find the one that this request began before; wait for the end of one that blocks it."""
    deadline = clock.monotonic_seconds() + _WAIT_SECONDS
    while True:
        begun = await wait_for_replica(
            lambda: request.resources.begin(new),
            new.order_id,
            is_missing=lambda each: isinstance(each, NoSuchOrder),
            waiting=request.waiting(request.service.replica_waits),
        )
        if isinstance(begun, Refusal):
            raise begun
        if begun.kind != "blocking":
            return begun
        blocking = await _wait_while(request, begun.payment, begun.payment.state)
        if blocking.state == begun.payment.state or clock.monotonic_seconds() >= deadline:
            raise PaymentInProgress


async def _wait_while(request: Request[NewPayment, Resources], payment: Payment, state: State) -> Payment:
    """Return a payment once it is no longer in a state, or as it is if that takes too long or too many wait."""
    with request.waiting(request.resources.outcome_waits) as may_wait:
        deadline = clock.monotonic_seconds() + _WAIT_SECONDS
        pause_seconds = _FIRST_PAUSE_SECONDS
        while may_wait and payment.state == state and clock.monotonic_seconds() < deadline:
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _PAUSE_SECONDS_MAX)
            found = await store.payment(request.db, payment.id)
            assert found is not None
            payment = found
    return payment


def _response(payment: Payment) -> Response:
    match payment.state:
        case "failed":
            raise InvalidToken if payment.reason_code == TOKEN_INVALID else CardDeclined(payment.reason)
        case "voided" | "refunded":
            raise OrderIsCancelled
        case _ if payment.wanted in {"void", "refund"}:
            raise OrderIsCancelled
        case "created":
            return Response(ACCEPTED, view(payment))
        case "requires_action":
            return Response(CREATED, view(payment))
        case "authorized" | "captured":
            # The capture follows by itself, so that a repeated request gets the same response before and after it.
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
    """List every attempt to pay one of the caller's orders, newest first.

    An attempt that waits for the caller is checked at Stripe soon afterwards: the caller may have just confirmed it.
    """
    order_id = request.input.order_id
    order = await wait_for_replica(
        lambda: store.order(request.db, order_id),
        order_id,
        is_missing=lambda each: each is None,
        waiting=request.waiting(request.service.replica_waits),
    )
    if order is None:
        raise NoSuchOrder
    if order.buyer_id != request.user.id:
        raise NotYourOrder
    payments = await store.payments_of(request.db, [order.id])
    if any(each.state == "requires_action" for each in payments):
        await store.make_waiting_due(request.db, order.id, _CHECKED_SECONDS)
    left = attempts_left(payments, request.resources.attempts_max) if order.status == "created" else 0
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
async def receive_webhook(request: Request[None, Resources]) -> Response:
    """Receive a webhook of Stripe; it is stored before the response and processed afterwards."""
    body = await request.http.body()
    try:
        event = request.resources.gateway.parse_webhook(body, request.http.headers.get("stripe-signature"))
    except ForgedWebhook:
        raise NotFromStripe from None
    await request.resources.store_webhook((event.id, body.decode()))
    return Response(OK, {})
