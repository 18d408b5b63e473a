"""Rules of orders that need no database."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from admitone.events import Offer, OrderAwaitingPayment, OrderCancelled, OrderCompleted, OrderCreated
from admitone.kernel.ids import new_id
from admitone.orders.model import NotYourOrder, Order, OrderComplete, PaymentInProgress

NOW = datetime(2026, 11, 21, tzinfo=UTC)
BOB, CAROL = new_id(), new_id()
CREATED = Order(
    id=new_id(),
    version=0,
    status="created",
    buyer_id=BOB,
    ticket_id=new_id(),
    ticket_version=3,
    ticket_revision=2,
    offer=Offer(title="Fado night", price_cents=1999, currency="usd"),
    created_at=NOW,
    expires_at=NOW + timedelta(minutes=15),
)
PAYMENT = new_id()
AWAITING = CREATED.awaiting_payment(PAYMENT)
COMPLETE = AWAITING.completed()
CANCELLED = CREATED.cancelled("expired")


def test_every_status_is_one_version_on_and_has_its_event() -> None:
    orders = (CREATED, AWAITING, COMPLETE, CANCELLED)
    assert [order.version for order in orders] == [0, 1, 2, 1]
    assert [type(order.event()) for order in orders] == [
        OrderCreated,
        OrderAwaitingPayment,
        OrderCompleted,
        OrderCancelled,
    ]
    assert all(order.event().user_id == BOB for order in orders)


def test_only_the_buyer_sees_the_order() -> None:
    assert CREATED.for_buyer(BOB) is CREATED
    with pytest.raises(NotYourOrder):
        CREATED.for_buyer(CAROL)


def test_an_order_is_overdue_from_its_deadline_until_it_is_paid_or_ended() -> None:
    assert not CREATED.is_overdue(CREATED.expires_at - timedelta(microseconds=1))
    assert CREATED.is_overdue(CREATED.expires_at)
    assert not any(order.is_overdue(CREATED.expires_at) for order in (AWAITING, COMPLETE, CANCELLED))


def test_a_buyer_cancels_an_unpaid_order_only() -> None:
    assert CREATED.cancelled_by_buyer().cancel_reason == "cancelled_by_buyer"
    assert CANCELLED.cancelled_by_buyer() is CANCELLED
    with pytest.raises(PaymentInProgress):
        AWAITING.cancelled_by_buyer()
    with pytest.raises(OrderComplete):
        COMPLETE.cancelled_by_buyer()


@pytest.mark.parametrize("wrong", [{"user_id": CAROL}, {"amount_cents": 1998}, {"currency": "eur"}])
def test_only_the_exact_payment_of_the_buyer_is_accepted(wrong: dict[str, Any]) -> None:
    payment: dict[str, Any] = {"user_id": BOB, "amount_cents": 1999, "currency": "usd"}
    assert CREATED.accepts(**payment)
    assert not CREATED.accepts(**{**payment, **wrong})
    assert not any(order.accepts(**payment) for order in (AWAITING, COMPLETE, CANCELLED))


def test_a_failed_payment_cancels_an_order_that_cannot_go_on_without_it() -> None:
    assert CREATED.is_cancelled_by_failure_of(new_id())
    assert AWAITING.is_cancelled_by_failure_of(PAYMENT)
    assert AWAITING.cancelled("payment_failed").status == "cancelled"
    assert not AWAITING.is_cancelled_by_failure_of(new_id())
    assert not any(order.is_cancelled_by_failure_of(PAYMENT) for order in (COMPLETE, CANCELLED))


def test_an_order_that_awaits_its_payment_is_cancelled_for_no_other_reason() -> None:
    with pytest.raises(AssertionError):
        AWAITING.cancelled("expired")


def test_an_order_keeps_its_offer_in_every_status() -> None:
    assert all(order.offer is CREATED.offer for order in (AWAITING, COMPLETE, CANCELLED))
    assert msgspec.structs.replace(CANCELLED, status="created", version=0, cancel_reason=None) == CREATED
