"""What payments does when orders tell it something. Stripe is not asked here: what is wanted is noted for a job."""

import logging
from uuid import UUID

from admitone.events import OrderAwaitingPayment, OrderCancelled, OrderCreated, PaymentFailed, PaymentRejected
from admitone.kernel.database import Transaction
from admitone.kernel.inbox import MissingEvents
from admitone.payments import paying, store
from admitone.payments.model import OrderStatus

log = logging.getLogger(__name__)


async def order_created(tx: Transaction, event: OrderCreated) -> None:
    await store.add_order(tx, event)


async def order_awaiting_payment(tx: Transaction, event: OrderAwaitingPayment) -> None:
    """The order can no longer expire or be cancelled: take the money that is held for it."""
    if not await _advance(tx, event.id, event.version, "awaiting:payment"):
        return
    found = [each for each in await store.payments_of(tx, [event.id]) if each.id == event.payment_id]
    if not found:
        # This database lost the payment; nothing will be taken for it, so the order must not wait for it.
        log.error("orders await a payment nobody knows", extra={"order": event.id, "payment": event.payment_id})
        tx.publish(PaymentFailed(id=event.payment_id, order_id=event.id, reason="The payment was not completed"))
    await paying.want(tx, found, "capture")


async def order_cancelled(tx: Transaction, event: OrderCancelled) -> None:
    """Give back whatever is held or taken for an order that is over."""
    if await _advance(tx, event.id, event.version, "cancelled"):
        await paying.want(tx, await store.payments_of(tx, [event.id]), "give up")


async def payment_rejected(tx: Transaction, event: PaymentRejected) -> None:
    """Orders will not have this payment: give it back."""
    await store.orders_for_change(tx, [event.order_id])
    payment = await store.payment(tx, event.payment_id)
    if payment is None:
        log.error("orders reject a payment nobody knows", extra={"order": event.order_id, "payment": event.payment_id})
        return
    await paying.want(tx, [payment], "give up")


async def _advance(tx: Transaction, order_id: UUID, version: int, status: OrderStatus) -> bool:
    """Apply an order's next version, under its lock; False for one that was applied before.

    Raises MissingEvents while one in between has not come.
    """
    if await store.advance_order(tx, order_id, version, status):
        return True
    replica = await store.order(tx, order_id)
    have = -1 if replica is None else replica.version
    if have < version:
        raise MissingEvents("orders", order_id, have)
    log.info("order version was applied before", extra={"order": order_id, "version": version, "have": have})
    return False
