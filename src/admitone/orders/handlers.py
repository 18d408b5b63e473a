"""What orders does when others tell it something; every handler is right however often and late its event comes."""

import logging

from admitone.events import (
    OrderExpired,
    PaymentAuthorized,
    PaymentCreated,
    PaymentFailed,
    PaymentRejected,
    TicketCreated,
    TicketLockRefused,
    TicketUpdated,
)
from admitone.kernel.database.pool import Transaction
from admitone.kernel.messaging.inbox import MissingEvents
from admitone.orders import store

log = logging.getLogger(__name__)


async def ticket_created(tx: Transaction, event: TicketCreated) -> None:
    await store.add_ticket(tx, event)


async def ticket_updated(tx: Transaction, event: TicketUpdated) -> None:
    """Drop an older version than the next one; a later one waits for those in between."""
    if await store.advance_tickets(tx, [event]):
        return
    replica = await store.ticket(tx, event.id)
    have = -1 if replica is None else replica.version
    if have < event.version:
        raise MissingEvents("tickets", event.id, have)
    log.info("ticket version was applied before", extra={"ticket": event.id, "version": event.version, "have": have})


async def ticket_lock_refused(tx: Transaction, event: TicketLockRefused) -> None:
    """The seller changed the ticket before the lock: the price held is no longer the price shown."""
    order = await store.order_for_change(tx, event.order_id)
    if order is not None and order.status == "created":
        await store.save(tx, order.cancelled("ticket_changed"))
    else:
        log.info("refused lock changes nothing", extra={"order": event.order_id})


async def order_expired(tx: Transaction, event: OrderExpired) -> None:
    """An alarm rang. It only reminds: what has expired is decided here, by this database's clock."""
    order = await store.order_for_change(tx, event.order_id)
    if order is not None and order.is_overdue(tx.now):
        await store.save(tx, order.cancelled("expired"))
    else:
        status = order.status if order is not None else "unknown"
        log.info("alarm changes nothing", extra={"order": event.order_id, "status": status})


async def payment_authorized(tx: Transaction, event: PaymentAuthorized) -> None:
    """Decide, under the order's lock, whether this money may be taken. The deadline no longer matters afterwards."""
    order = await store.order_for_change(tx, event.order_id)
    if order is not None and order.payment_id == event.id:
        log.info("payment was accepted before", extra={"order": order.id, "payment": event.id})
        return
    if order is None or not order.accepts(event.user_id, event.amount_cents, event.currency):
        tx.publish(PaymentRejected(order_id=event.order_id, payment_id=event.id))
        return
    ticket = await store.ticket(tx, order.ticket_id)
    assert ticket is not None
    if ticket.order_id != order.id:
        # The lock was not confirmed yet; it may still be refused because the seller changed the price meanwhile.
        raise MissingEvents("tickets", order.ticket_id, ticket.version)
    await store.save(tx, order.awaiting_payment(event.id))


async def payment_created(tx: Transaction, event: PaymentCreated) -> None:
    order = await store.order_for_change(tx, event.order_id)
    if order is not None and order.payment_id == event.id and order.status == "awaiting:payment":
        await store.save(tx, order.completed())
    elif order is not None and order.payment_id == event.id and order.status == "complete":
        log.info("order was complete before", extra={"order": order.id})
    else:
        # Money was taken that nobody here asked for: it goes back.
        log.error("charge without an order that awaits it", extra={"order": event.order_id, "payment": event.id})
        tx.publish(PaymentRejected(order_id=event.order_id, payment_id=event.id))


async def payment_failed(tx: Transaction, event: PaymentFailed) -> None:
    """The attempts are used up, or an authorisation was lost before its capture: the ticket goes back on sale."""
    order = await store.order_for_change(tx, event.order_id)
    is_open = order is not None and (
        order.status == "created" or (order.status == "awaiting:payment" and order.payment_id == event.id)
    )
    if order is not None and is_open:
        await store.save(tx, order.cancelled("payment_failed"))
    else:
        log.info("failed payment changes nothing", extra={"order": event.order_id, "payment": event.id})
