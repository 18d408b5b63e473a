"""What tickets does when an order begins, ends or completes; correct however often and in whatever order events arrive.

The end of an order is recorded even if its beginning has not arrived; a beginning that arrives after the end locks
nothing.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from admitone.events import OrderCancelled, OrderCompleted, OrderCreated, TicketLockRefused
from admitone.kernel.database.pool import Transaction
from admitone.kernel.messaging import replicas
from admitone.kernel.messaging.inbox import MissingEvents
from admitone.tickets import store
from admitone.tickets.model import Ticket

log = logging.getLogger(__name__)


@dataclass
class OrderBatch:
    """The tickets that a batch of events is about, locked, and the versions of the orders known here."""

    tx: Transaction
    tickets: dict[UUID, Ticket]
    versions: dict[UUID, int]
    changed: dict[UUID, Ticket] = field(default_factory=dict)
    reached: dict[UUID, int] = field(default_factory=dict)

    def advance(self, order_id: UUID, version: int) -> bool:
        """Record that an order reached a version; False if it had reached it before."""
        if self.versions.get(order_id, -1) >= version:
            return False
        self.versions[order_id] = self.reached[order_id] = version
        return True

    def change(self, ticket: Ticket) -> None:
        assert ticket.id not in self.changed, "a second change of one ticket in a batch"
        self.tickets[ticket.id] = self.changed[ticket.id] = ticket
        self.tx.publish(ticket.changed_fact())


async def load_for_created(tx: Transaction, events: Sequence[OrderCreated]) -> OrderBatch:
    return await _load(tx, [event.ticket.id for event in events], [event.id for event in events])


async def load_for_ended(tx: Transaction, events: Sequence[OrderCancelled | OrderCompleted]) -> OrderBatch:
    return await _load(tx, [event.ticket_id for event in events], [event.id for event in events])


async def _load(tx: Transaction, ticket_ids: Sequence[UUID], order_ids: Sequence[UUID]) -> OrderBatch:
    tickets = await store.tickets_for_change(tx, ticket_ids)
    return OrderBatch(tx, tickets, await replicas.versions(tx, order_ids))


async def save(tx: Transaction, batch: OrderBatch) -> None:
    await store.save_holds(tx, list(batch.changed.values()))
    await replicas.save_versions(tx, batch.reached)


def order_created(tx: Transaction, batch: OrderBatch, event: OrderCreated) -> None:
    """Lock the ticket for the order, or refuse the lock, which makes orders cancel the order."""
    ticket = batch.tickets.get(event.ticket.id)
    extra = {"order": event.id, "ticket": event.ticket.id}
    if event.id in batch.versions:
        log.info("order was seen before; nothing is locked", extra=extra)
        return
    if ticket is not None and ticket.is_reserved_for_another(event.id) and ticket.order_id is not None:
        # One ticket has one live order, so one of the two orders has ended and that event is on its way.
        raise MissingEvents("orders", ticket.order_id, 0)
    batch.advance(event.id, event.version)
    if ticket is not None and ticket.is_as_ordered(event.ticket):
        batch.change(ticket.locked(event.id))
        return
    status = "unknown" if ticket is None else ticket.status
    log.info("ticket is not as it was ordered; the lock is refused", extra={**extra, "status": status})
    tx.publish(TicketLockRefused(ticket_id=event.ticket.id, order_id=event.id))


def order_cancelled(_tx: Transaction, batch: OrderBatch, event: OrderCancelled) -> None:
    """Release the ticket if this order holds it."""
    ticket = batch.tickets.get(event.ticket_id)
    extra = {"order": event.id, "ticket": event.ticket_id}
    if not batch.advance(event.id, event.version):
        log.info("the end of the order was seen before", extra=extra)
    elif ticket is None or not ticket.is_reserved_for(event.id):
        log.info("the cancelled order holds no ticket; nothing is released", extra=extra)
    else:
        batch.change(ticket.released())


def order_completed(_tx: Transaction, batch: OrderBatch, event: OrderCompleted) -> None:
    """Sell the ticket to the order that holds it. Raises MissingEvents if the order's beginning has not arrived."""
    ticket = batch.tickets.get(event.ticket_id)
    extra = {"order": event.id, "ticket": event.ticket_id}
    if event.id not in batch.versions:
        raise MissingEvents("orders", event.id)
    if not batch.advance(event.id, event.version):
        log.info("the end of the order was seen before", extra=extra)
    elif ticket is None or not ticket.is_reserved_for(event.id):
        # orders takes no money before this service confirms the lock, so somebody must look into this.
        log.error("the completed order holds no ticket; nothing is sold", extra=extra)
    else:
        batch.change(ticket.sold())
