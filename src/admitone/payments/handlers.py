"""What payments does when orders publishes, and its snapshots; correct in whatever order events arrive, however often.

Nothing is sent to Stripe here: what is wanted there is saved, and a job does it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import msgspec

from admitone.events import (
    OrderAwaitingPayment,
    OrderCancelled,
    OrderCreated,
    PaymentAuthorized,
    PaymentCreated,
    PaymentFailed,
    PaymentRefunded,
    PaymentRejected,
    PaymentVoided,
)
from admitone.kernel.database.pool import Transaction
from admitone.kernel.messaging.event import Event
from admitone.kernel.messaging.handlers import MissingEvents
from admitone.kernel.messaging.recovery import CannotRebuild
from admitone.kernel.messaging.replicas import Versions, is_early, is_next, load_versions
from admitone.kernel.tracing import current_traceparent
from admitone.payments import store
from admitone.payments.model import NOT_COMPLETED, OrderReplica, OrderStatus, Payment

log = logging.getLogger(__name__)


# OrderCreated only adds a row, so its batch is the list of them.


async def load_nothing(_tx: Transaction, _events: Sequence[OrderCreated]) -> list[OrderReplica]:
    return []


def order_created(_tx: Transaction, added: list[OrderReplica], event: OrderCreated) -> None:
    """Keep what may be paid, by whom, how much and until when."""
    order = OrderReplica(
        id=event.id,
        version=event.version,
        status="created",
        buyer_id=event.user_id,
        price_cents=event.ticket.price_cents,
        currency=event.ticket.currency,
        expires_at=event.expires_at,
    )
    added.append(order)


# The other events change orders and their payments.


@dataclass
class OrderBatch:
    """The orders that a batch of events is about, locked, and their payments."""

    orders: dict[UUID, OrderReplica]
    payments: dict[UUID, Payment]
    dropped: Versions
    changed_orders: dict[UUID, OrderReplica] = field(default_factory=dict)
    changed_payments: dict[UUID, Payment] = field(default_factory=dict)

    def advance(self, event: OrderAwaitingPayment | OrderCancelled, status: OrderStatus) -> bool:
        """Apply the next version of an order; False if it was applied before. Raises MissingEvents if it is later."""
        order = self.orders.get(event.id)
        if order is None:
            if event.id not in self.dropped:
                raise MissingEvents(event.producer, event.id)
            log.info("the beginning of the order was dropped", extra={"order": event.id})
            return False
        if not is_next(event, max(order.version, self.dropped.of(event.id))):
            return False
        self.orders[order.id] = self.changed_orders[order.id] = order.advanced(event.version, status)
        return True

    def change(self, payment: Payment) -> None:
        changed = msgspec.structs.replace(payment, traceparent=current_traceparent())
        self.payments[payment.id] = self.changed_payments[payment.id] = changed


async def load(
    tx: Transaction, events: Sequence[OrderAwaitingPayment | OrderCancelled | PaymentRejected]
) -> OrderBatch:
    order_ids = [event.aggregate for event in events]
    orders = await store.orders_for_change(tx, order_ids)
    payments = await store.payments_of(tx, order_ids)
    versions = {order.id: order.version for order in orders.values()}
    early = [
        event.id
        for event in events
        if not isinstance(event, PaymentRejected) and is_early(event, versions.get(event.id, -1))
    ]
    return OrderBatch(orders, {payment.id: payment for payment in payments}, await load_versions(tx, early))


async def save(tx: Transaction, batch: OrderBatch) -> None:
    await store.save_orders(tx, list(batch.changed_orders.values()))
    await store.save_payments(tx, list(batch.changed_payments.values()))


def order_awaiting_payment(tx: Transaction, batch: OrderBatch, event: OrderAwaitingPayment) -> None:
    """The order can no longer expire or be cancelled: capture the payment that orders accepted."""
    if not batch.advance(event, "awaiting:payment"):
        return
    payment = batch.payments.get(event.payment_id)
    extra = {"order": event.id, "payment": event.payment_id}
    if payment is None or payment.wanted == "void" or payment.state == "voided":
        # It is being voided, or a restored database lost it: nothing will be captured, so the order must not wait.
        log.error("the awaited payment will not be captured", extra=extra)
        tx.publish(PaymentFailed(id=event.payment_id, order_id=event.id, reason=NOT_COMPLETED))
    elif (captured := payment.capture(tx.now)) is not payment:
        batch.change(captured)
    else:
        log.info("the awaited payment is not authorized; nothing is captured", extra={**extra, "state": payment.state})


def order_cancelled(tx: Transaction, batch: OrderBatch, event: OrderCancelled) -> None:
    """Return all money that is held or was taken for the order."""
    if batch.advance(event, "cancelled"):
        for payment in list(batch.payments.values()):
            if payment.order_id == event.id:
                _cancel(tx, batch, payment)


def payment_rejected(tx: Transaction, batch: OrderBatch, event: PaymentRejected) -> None:
    """Return the money of a payment that orders did not accept."""
    payment = batch.payments.get(event.payment_id)
    if payment is None:
        log.error("an unknown payment is rejected", extra={"order": event.order_id, "payment": event.payment_id})
    else:
        _cancel(tx, batch, payment)


def _cancel(tx: Transaction, batch: OrderBatch, payment: Payment) -> None:
    cancelled = payment.cancel(tx.now)
    if cancelled is not payment:
        batch.change(cancelled)


async def snapshots(tx: Transaction, order_ids: Sequence[UUID]) -> list[Event]:
    """Describe the money of orders: what is held for them or was taken."""
    await store.orders_for_change(tx, order_ids)
    return [event for payment in await store.payments_of(tx, order_ids) for event in payment.held_events()]


# Rebuilding what the events of this service report, in a database that was restored to an earlier time


async def rebuild_held_payment(
    tx: Transaction, event: PaymentAuthorized | PaymentCreated, recorded_at: datetime
) -> None:
    payment = await store.payment(tx, event.id)
    if payment is None:
        known = await store.payments_of(tx, [event.order_id])
        # The end of a declined payment is not published; there is one open payment of an order at most.
        await store.save_payments(tx, [each.lost_end(tx.now) for each in known if each.is_open])
        price = (event.amount_cents, event.currency)
        payment = Payment.rebuilt(event.id, event.order_id, event.user_id, price, recorded_at, known)
        await store.add_payments(tx, [payment])
    await _save_published(tx, payment, event)


async def rebuild_ended_payment(
    tx: Transaction, event: PaymentFailed | PaymentVoided | PaymentRefunded, _recorded_at: datetime
) -> None:
    payment = await store.payment(tx, event.id)
    if payment is not None:
        if isinstance(event, PaymentRefunded) and payment.is_open:
            # It was captured while it was being voided, which is not published.
            payment = payment.settled("captured")
            await store.save_payments(tx, [payment])
        await _save_published(tx, payment, event)
    elif isinstance(event, PaymentRefunded):
        raise CannotRebuild("the payment is missing")
    else:
        # Nothing was held that the database knew, and nothing is.
        log.info("an unknown payment ended", extra={"order": event.order_id, "payment": event.id})


async def _save_published(
    tx: Transaction,
    payment: Payment,
    event: PaymentAuthorized | PaymentCreated | PaymentFailed | PaymentVoided | PaymentRefunded,
) -> None:
    published = payment.as_published(event, tx.now)
    if published is not payment:
        await store.save_payments(tx, [published])
