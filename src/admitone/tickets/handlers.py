"""What tickets does when orders tells it something; every handler is right however often and late its event comes.

An order's events may come in any order. Its end is noted even where its beginning has not come, and a beginning that
comes after its end locks nothing.
"""

import logging

from admitone.events import OrderCancelled, OrderCompleted, OrderCreated, TicketLockRefused
from admitone.kernel import followed
from admitone.kernel.database import Transaction
from admitone.kernel.inbox import MissingEvents
from admitone.tickets import store

log = logging.getLogger(__name__)


async def order_created(tx: Transaction, event: OrderCreated) -> None:
    """Lock the ticket for the order, or refuse the lock, which makes orders cancel the order."""
    ticket = await store.ticket_for_change(tx, event.ticket.id)
    facts = {"order": event.id, "ticket": event.ticket.id}
    if await followed.is_known(tx, event.id):
        log.info("order was heard of before; nothing is locked", extra=facts)
        return
    if ticket is not None and ticket.is_reserved_for_another(event.id) and ticket.order_id is not None:
        # One ticket has one live order, so either the other one is over and its end is on its way, or this one is.
        raise MissingEvents("orders", ticket.order_id, 0)
    await followed.is_news(tx, "orders", event.id, event.version)
    if ticket is not None and ticket.is_as_ordered(event.ticket):
        await store.save_hold(tx, ticket.locked(event.id))
        return
    status = "unknown" if ticket is None else ticket.status
    log.info("ticket is not as it was ordered; the lock is refused", extra={**facts, "status": status})
    tx.publish(TicketLockRefused(ticket_id=event.ticket.id, order_id=event.id))


async def order_cancelled(tx: Transaction, event: OrderCancelled) -> None:
    """Release the ticket, if this order is the one that holds it."""
    ticket = await store.ticket_for_change(tx, event.ticket_id)
    facts = {"order": event.id, "ticket": event.ticket_id}
    if not await followed.is_last_news(tx, event.id, event.version):
        log.info("end of the order was heard before", extra=facts)
    elif ticket is None or not ticket.is_reserved_for(event.id):
        log.info("cancelled order holds no ticket; nothing is released", extra=facts)
    else:
        await store.save_hold(tx, ticket.released())


async def order_completed(tx: Transaction, event: OrderCompleted) -> None:
    """Sell the ticket to the order that holds it. Raises MissingEvents while that lock has not come."""
    ticket = await store.ticket_for_change(tx, event.ticket_id)
    facts = {"order": event.id, "ticket": event.ticket_id}
    if not await followed.is_news(tx, "orders", event.id, event.version):
        log.info("end of the order was heard before", extra=facts)
    elif ticket is None or not ticket.is_reserved_for(event.id):
        # orders takes no money before this service confirmed the lock, so somebody has to look at this.
        log.error("completed order holds no ticket; nothing is sold", extra=facts)
    else:
        await store.save_hold(tx, ticket.sold())
