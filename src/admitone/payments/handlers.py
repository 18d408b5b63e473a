"""What payments does when orders tell it something. Stripe is not asked here: what is wanted is noted for a job."""

import logging
from uuid import UUID

from admitone.events import OrderAwaitingPayment, OrderCancelled, OrderCreated, PaymentFailed, PaymentRejected
from admitone.kernel.database.pool import Transaction
from admitone.kernel.messaging.inbox import MissingEvents
from admitone.kernel.tracing import current_traceparent
from admitone.payments import paying, store
from admitone.payments.paying import SETTLING

log = logging.getLogger(__name__)


async def order_created(tx: Transaction, event: OrderCreated) -> None:
    await store.add_orders(tx, [event])


async def order_awaiting_payment(tx: Transaction, event: OrderAwaitingPayment) -> None:
    """The order can no longer expire or be cancelled: capture the money that is held for it."""
    advanced = await store.await_payments(tx, [event], [current_traceparent()])
    if event.id not in advanced:
        await _note_other_version(tx, event.id, event.version)
    elif advanced[event.id]:
        tx.wake(SETTLING)
    elif (failed := await _without_money(tx, event)) is not None:
        tx.publish(failed)


async def _without_money(tx: Transaction, order: OrderAwaitingPayment) -> PaymentFailed | None:
    """Return what to tell of an order that awaits a payment which is not held."""
    payment = await store.payment(tx, order.payment_id)
    if payment is None or payment.wanted == "void" or payment.state == "voided":
        # Given up, or forgotten by a restored database: nothing will be taken, so the order must not wait for it.
        log.error("orders await a payment that will not come", extra={"order": order.id, "payment": order.payment_id})
        return PaymentFailed(id=order.payment_id, order_id=order.id, reason="The payment was not completed")
    log.info("a payment that is awaited is not held", extra={"payment": payment.id, "state": payment.state})
    return None


async def order_cancelled(tx: Transaction, event: OrderCancelled) -> None:
    """Give back whatever is held or taken for an order that is over."""
    if await store.advance_order(tx, event.id, event.version, "cancelled"):
        await paying.give_up(tx, await store.payments_of(tx, [event.id]))
    else:
        await _note_other_version(tx, event.id, event.version)


async def payment_rejected(tx: Transaction, event: PaymentRejected) -> None:
    """Orders will not have this payment: give it back."""
    await store.orders_for_change(tx, [event.order_id])
    payment = await store.payment(tx, event.payment_id)
    if payment is None:
        log.error("orders reject a payment nobody knows", extra={"order": event.order_id, "payment": event.payment_id})
        return
    await paying.give_up(tx, [payment])


async def _note_other_version(tx: Transaction, order_id: UUID, version: int) -> None:
    """Leave an order's event alone that was applied before; raises MissingEvents while an earlier one has not come."""
    replica = await store.order(tx, order_id)
    have = -1 if replica is None else replica.version
    if have < version:
        raise MissingEvents("orders", order_id, have)
    log.info("order version was applied before", extra={"order": order_id, "version": version, "have": have})
