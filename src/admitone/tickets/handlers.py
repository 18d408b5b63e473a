"""What tickets does when orders tells it something; every handler is right however often and late its event comes.

An order's events may come in any order. Its end is noted even where its beginning has not come, and a beginning that
comes after its end locks nothing.
"""

import logging
from collections.abc import Mapping, Sequence
from uuid import UUID

from admitone.events import OrderCancelled, OrderCompleted, OrderCreated, TicketLockRefused, TicketUpdated
from admitone.kernel import followed
from admitone.kernel.database import Transaction
from admitone.kernel.inbox import Heard, MissingEvents
from admitone.tickets import store
from admitone.tickets.model import Ticket

log = logging.getLogger(__name__)


async def usual_orders_created(tx: Transaction, heard: Sequence[Heard[OrderCreated]]) -> Mapping[UUID, TicketUpdated]:
    """Lock the tickets that are free and as they were ordered, for orders not heard of before."""
    return _told(await store.lock_as_ordered(tx, [each.event for each in heard]))


async def usual_orders_completed(
    tx: Transaction, heard: Sequence[Heard[OrderCompleted]]
) -> Mapping[UUID, TicketUpdated]:
    """Sell the tickets that are locked for these orders."""
    return _told(await store.sell(tx, [each.event for each in heard]))


def _told(held: Sequence[Ticket]) -> Mapping[UUID, TicketUpdated]:
    return {ticket.order_id: ticket.changed_fact() for ticket in held if ticket.order_id is not None}


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
