"""What tickets does on events of orders, in any sequence and delivered any number of times, and its snapshots.

The end of an order is recorded even if its beginning has not arrived; a beginning that arrives after the end locks
nothing.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from admitone.events import (
    OrderCancelled,
    OrderCompleted,
    OrderCreated,
    TicketCreated,
    TicketLockRefused,
    TicketUpdated,
)
from admitone.kernel.database.pool import Transaction
from admitone.kernel.messaging.handlers import MissingEvents
from admitone.kernel.messaging.recovery import is_next_version
from admitone.kernel.messaging.replicas import Versions, load_versions, mark_known
from admitone.tickets import store
from admitone.tickets.model import Ticket

log = logging.getLogger(__name__)


@dataclass
class TicketBatch:
    """The tickets that a batch of events is about, locked, and the versions of the orders known here."""

    tickets: dict[UUID, Ticket]
    orders: Versions
    changed: dict[UUID, Ticket] = field(default_factory=dict)

    def change(self, tx: Transaction, ticket: Ticket) -> None:
        assert ticket.id not in self.changed, "a second change of one ticket in a batch"
        self.tickets[ticket.id] = self.changed[ticket.id] = ticket
        tx.publish(ticket.updated_event())


async def load_ordered(tx: Transaction, events: Sequence[OrderCreated]) -> TicketBatch:
    return await _load(tx, [event.ticket.id for event in events], [event.id for event in events])


async def load_ended(tx: Transaction, events: Sequence[OrderCancelled | OrderCompleted]) -> TicketBatch:
    return await _load(tx, [event.ticket_id for event in events], [event.id for event in events])


async def _load(tx: Transaction, ticket_ids: Sequence[UUID], order_ids: Sequence[UUID]) -> TicketBatch:
    # The lock comes first: the versions are then those that the last transaction with these tickets left.
    tickets = await store.tickets_for_change(tx, ticket_ids)
    return TicketBatch(tickets, await load_versions(tx, order_ids))


async def save(tx: Transaction, batch: TicketBatch) -> None:
    await store.save_locks(tx, list(batch.changed.values()))
    await batch.orders.save(tx)


def order_created(tx: Transaction, batch: TicketBatch, event: OrderCreated) -> None:
    """Lock the ticket for the order, or refuse the lock, which makes orders cancel the order."""
    ticket = batch.tickets.get(event.ticket.id)
    extra = {"order": event.id, "ticket": event.ticket.id}
    if ticket is not None and ticket.order_id == event.id:
        batch.orders.advance(event)  # locked before, although the order is unknown: the database was restored
    if event.id in batch.orders:
        log.info("order is known; nothing is locked", extra=extra)
        return
    if ticket is not None and ticket.is_reserved_for_another(event.id) and ticket.order_id is not None:
        # One ticket has one live order, so one of the two orders has ended and that event is on its way.
        raise MissingEvents(event.producer, ticket.order_id, 0)
    batch.orders.advance(event)
    if ticket is not None and ticket.is_as_ordered(event.ticket):
        batch.change(tx, ticket.locked(event.id))
        return
    status = "unknown" if ticket is None else ticket.status
    log.info("ticket is not as it was ordered; the lock is refused", extra={**extra, "status": status})
    tx.publish(TicketLockRefused(ticket_id=event.ticket.id, order_id=event.id))


def order_cancelled(tx: Transaction, batch: TicketBatch, event: OrderCancelled) -> None:
    """Release the ticket if this order holds it."""
    ticket = batch.tickets.get(event.ticket_id)
    if not batch.orders.advance(event):
        return
    if ticket is not None and ticket.is_reserved_for(event.id):
        batch.change(tx, ticket.released())
    else:
        extra = {"order": event.id, "ticket": event.ticket_id}
        log.info("the cancelled order holds no ticket; nothing is released", extra=extra)


def order_completed(tx: Transaction, batch: TicketBatch, event: OrderCompleted) -> None:
    """Sell the ticket to the order that holds it. Raises MissingEvents if the order's beginning has not arrived."""
    ticket = batch.tickets.get(event.ticket_id)
    if event.id not in batch.orders:
        raise MissingEvents(event.producer, event.id)
    if not batch.orders.advance(event):
        return
    if ticket is not None and ticket.is_reserved_for(event.id):
        batch.change(tx, ticket.sold())
    elif ticket is not None and ticket.order_id == event.id:
        log.info("ticket was sold before", extra={"order": event.id, "ticket": event.ticket_id})
    else:
        # Orders takes no money before this service confirms the lock, so this needs an operator.
        extra = {"order": event.id, "ticket": event.ticket_id}
        log.error("the completed order holds no ticket; nothing is sold", extra=extra)


async def snapshots(tx: Transaction, ticket_ids: Sequence[UUID]) -> list[TicketUpdated]:
    """Describe tickets as they are."""
    return [ticket.snapshot_event() for ticket in (await store.tickets_for_change(tx, ticket_ids)).values()]


# Rebuilding what the events of this service report, in a database that was restored to an earlier time. An order that
# they name is known: otherwise its beginning, which arrives again, would lock the ticket or refuse the lock again.


async def rebuild_ticket(tx: Transaction, event: TicketCreated | TicketUpdated, recorded_at: datetime) -> None:
    known = (await store.tickets_for_change(tx, [event.id])).get(event.id)
    if not is_next_version(event, -1 if known is None else known.version):
        return
    ticket = Ticket.of(event)
    if known is None:
        await store.insert_ticket(tx, ticket, recorded_at)
    elif ticket.revision > known.revision:
        await store.save_edit(tx, ticket)
    else:
        await store.save_locks(tx, [ticket])
    if ticket.order_id is not None:
        await mark_known(tx, ticket.order_id)


async def rebuild_refusal(tx: Transaction, event: TicketLockRefused, _recorded_at: datetime) -> None:
    await mark_known(tx, event.order_id)
