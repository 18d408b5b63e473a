"""Beginning a payment: whether a buyer's request may begin one, and what it waits for otherwise.

What happens to a payment from then on is in `model.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from admitone.kernel.errors import Conflict, Forbidden, IdempotencyKeyReused, Invalid, NotFound
from admitone.payments.model import OrderReplica, Payment

# How long a payment is left to the process that began it or took it to settle it.
LEASE_SECONDS: Final = 30.0


class NoSuchOrder(NotFound):
    """Not Found"""


class NotYourOrder(Forbidden):
    """This order belongs to somebody else"""


class OrderIsCancelled(Invalid):
    """This order is cancelled; nothing is charged"""


class OrderHasExpired(Invalid):
    """The time to pay this order is over; nothing is charged"""


class NoAttemptsLeft(Invalid):
    """The payment was refused too often; this order is being cancelled and nothing is charged"""


class PaymentInProgress(Conflict):
    """This order is being paid already; do not pay again"""


@dataclass(frozen=True)
class PaymentRequest:
    """A buyer's request to pay an order; `payment_id` is the id of the payment if it begins one."""

    payment_id: UUID
    order_id: UUID
    buyer_id: UUID
    token: str
    idempotency_key: str | None
    traceparent: str | None = None


@dataclass(frozen=True)
class Begun:
    """What to do for a request: authorize a new payment, or wait for another one.

    `repeated` is the payment that the same request began before. `blocking` is another payment of the order that is
    being voided: once it is, the request can begin its own.
    """

    payment: Payment
    kind: Literal["new", "repeated", "blocking"]


def begin_payment(
    request: PaymentRequest, order: OrderReplica | None, known: Sequence[Payment], attempts_max: int, now: datetime
) -> Begun:
    """Decide about a request, given the payments of the order and those with the request's idempotency key.

    Raises a refusal if the order cannot be paid by this request.
    """
    if order is None:
        raise NoSuchOrder
    if order.buyer_id != request.buyer_id:
        raise NotYourOrder
    attempts = [payment for payment in known if payment.order_id == order.id]
    if (repeated := _repeated(request, known, attempts)) is not None:
        return Begun(repeated, "repeated")
    if order.status == "cancelled":
        raise OrderIsCancelled
    if live := [payment for payment in attempts if payment.is_live]:
        return Begun(_superseded(live[0], now), "blocking")
    if not order.is_payable(now):
        raise OrderHasExpired
    if attempts_left(attempts, attempts_max) == 0:
        raise NoAttemptsLeft
    payment = Payment(
        id=request.payment_id,
        order_id=order.id,
        attempt=len(attempts) + 1,
        buyer_id=order.buyer_id,
        amount_cents=order.price_cents,
        currency=order.currency,
        token=request.token,
        idempotency_key=request.idempotency_key,
        traceparent=request.traceparent,
        created_at=now,
        due_at=now + timedelta(seconds=LEASE_SECONDS),
    )
    return Begun(payment, "new")


def _repeated(request: PaymentRequest, known: Sequence[Payment], attempts: Sequence[Payment]) -> Payment | None:
    """Return the payment that this request began before: it has the same key, or the same order and token."""
    key = (request.buyer_id, request.idempotency_key)
    for payment in known if request.idempotency_key is not None else ():
        if (payment.buyer_id, payment.idempotency_key) == key:
            if (payment.order_id, payment.token) != (request.order_id, request.token):
                raise IdempotencyKeyReused
            return payment
    for payment in attempts:
        if payment.is_live and payment.wanted in {None, "capture"} and payment.token == request.token:
            return payment
    return None


def _superseded(live: Payment, now: datetime) -> Payment:
    """Return the live payment to be voided for another card; raises PaymentInProgress unless it waits for its buyer."""
    if live.state == "requires_action":
        return live.cancel(now)
    if live.wanted == "void":
        return live
    raise PaymentInProgress


def attempts_left(attempts: Sequence[Payment], attempts_max: int) -> int:
    """Return how many more attempts an order may have; voided attempts do not count."""
    return max(0, attempts_max - sum(payment.state == "failed" for payment in attempts))
