"""The routes of payments: pay an order, see what became of it, and Stripe's way in."""

import asyncio
from typing import Final

from admitone.kernel import clock
from admitone.kernel.arrival import once_here
from admitone.kernel.http import ACCEPTED, CREATED, OK, Answer, Call, operation, read_raw
from admitone.kernel.refusals import Invalid
from admitone.kernel.trace import current_traceparent
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
from admitone.payments.own import own
from admitone.payments.paying import Ask, Begun, Learnt, attempts_left
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
    answers=PaymentView,
    refuses=(NotYourOrder, NoSuchOrder, OrderIsCancelled, OrderHasExpired, NoAttemptsLeft, CardRefused, BeingPaid),
    signed_in=True,
    idempotent=True,
    otherwise={ACCEPTED: "The bank's answer is still out: the payment is `pending` and settles by itself."},
)
async def pay_order(call: Call[NewPayment]) -> Answer:
    """Pay an order.

    The money is held, and taken once the order is the buyer's. `requires_action` asks the buyer to confirm at the
    bank. Where the bank's answer is still out, the answer is 202 with status `pending`: the payment settles by
    itself and must not be repeated. The same request again gives the same payment and never a second charge.
    """
    ask = Ask(
        call.body.order_id, call.person.id, call.body.token, call.idempotency_key, traceparent=current_traceparent()
    )
    begun = await _begin(call, ask)
    payment = begun.payment
    assert payment is not None
    if begun.kind == "new":
        finding = await own(call.service).stripe.authorise(payment, return_url(call.service, payment.order_id))
        payment = await own(call.service).learn(Learnt(payment.id, finding))
    else:
        payment = await _followed(call, payment, until_not="created")
    return _answer(payment)


async def _begin(call: Call[NewPayment], ask: Ask) -> Begun:
    """Begin a payment, or find the same one; where another is being given up, wait for that first."""
    deadline = clock.monotonic_seconds() + _FOLLOW_SECONDS
    while True:
        begun = await once_here(
            lambda: own(call.service).begin(ask), ask.order_id, is_missing=lambda each: each.refusal is NoSuchOrder
        )
        if begun.refusal is not None:
            raise begun.refusal
        if begun.kind != "other":
            return begun
        assert begun.payment is not None
        await _followed(call, begun.payment, until_not=begun.payment.state)
        if clock.monotonic_seconds() >= deadline:
            raise BeingPaid


async def _followed(call: Call[NewPayment], payment: Payment, *, until_not: str) -> Payment:
    """Return a payment once it has left a state, or as it is when that takes too long."""
    deadline = clock.monotonic_seconds() + _FOLLOW_SECONDS
    pause_seconds = _FIRST_PAUSE_SECONDS
    while payment.state == until_not and clock.monotonic_seconds() < deadline:
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 2, _PAUSE_SECONDS_MAX)
        found = await store.payment(call.db, payment.id)
        assert found is not None
        payment = found
    return payment


def _answer(payment: Payment) -> Answer:
    match payment.state:
        case "failed":
            raise TokenRefused if payment.reason_code == TOKEN_INVALID else CardRefused(payment.reason)
        case "voided" | "refunded":
            raise OrderIsCancelled
        case _ if payment.wanted in {"void", "refund"}:
            raise OrderIsCancelled
        case "created":
            return Answer(ACCEPTED, view(payment))
        case "requires_action":
            return Answer(CREATED, view(payment))
        case "authorized" | "captured":
            # Taking the money is not the buyer's doing: whoever repeats the request gets the same answer.
            return Answer(CREATED, view(payment, "authorized"))


@operation(
    "GET",
    "/api/payments",
    query=PaymentsOf,
    answers=PaymentsView,
    refuses=(NotYourOrder, NoSuchOrder),
    signed_in=True,
)
async def list_payments(call: Call[None]) -> Answer:
    """List every attempt to pay one of the caller's orders, newest first."""
    asked: PaymentsOf = call.query
    order = await once_here(
        lambda: store.order(call.db, asked.order_id), asked.order_id, is_missing=lambda each: each is None
    )
    if order is None:
        raise NoSuchOrder
    if order.user_id != call.person.id:
        raise NotYourOrder
    payments = await store.payments_of(call.db, [order.id])
    left = attempts_left(payments, call.settings.payment_attempts) if order.status == "created" else 0
    return Answer(OK, PaymentsView([view(each) for each in reversed(payments)], left))


class NotFromStripe(Invalid):
    """The signature is not valid"""


@operation(
    "POST",
    "/api/payments/webhook",
    refuses=(NotFromStripe,),
    headers={"Stripe-Signature": "Stripe's signature of the body, not older than five minutes."},
    raw=True,
)
async def hear_stripe(call: Call[None]) -> Answer:
    """Take what Stripe tells; it is stored before it is answered and worked off afterwards."""
    body = await read_raw(call.request)
    try:
        told = own(call.service).stripe.heard(body, call.header("stripe-signature"))
    except Forged:
        raise NotFromStripe from None
    await own(call.service).store_webhook((told.id, body.decode()))
    return Answer(OK, {})
