"""What orders does on events of tickets, expiration and payments, and its snapshots.

Events arrive in any sequence, each any number of times.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from admitone.events import (
    Offer,
    OrderAwaitingPayment,
    OrderCancelled,
    OrderCompleted,
    OrderCreated,
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
from admitone.kernel.messaging.handlers import MissingEvents
from admitone.kernel.messaging.recovery import CannotRebuild, is_next_version
from admitone.kernel.messaging.replicas import is_early, is_next, load_versions
from admitone.orders import store
from admitone.orders.model import Order, OrderEvent, TicketReplica

log = logging.getLogger(__name__)

# Replicas of tickets


@dataclass
class ReplicaBatch:
    """The versions of the replicas that a batch of ticket events is about, locked, and the replicas to save."""

    versions: dict[UUID, int]
    changed: list[TicketReplica] = field(default_factory=list)


async def load_replicas(tx: Transaction, events: Sequence[TicketCreated | TicketUpdated]) -> ReplicaBatch:
    ticket_ids = [event.id for event in events]
    versions = await store.ticket_versions_for_change(tx, ticket_ids)
    early = [event.id for event in events if is_early(event, versions.get(event.id, -1))]
    dropped = await load_versions(tx, early)
    return ReplicaBatch({each: max(versions.get(each, -1), dropped.of(each)) for each in ticket_ids})


def ticket_changed(_tx: Transaction, batch: ReplicaBatch, event: TicketCreated | TicketUpdated) -> None:
    """Apply the next version of a ticket; raises MissingEvents for a later one."""
    if is_next(event, batch.versions[event.id]):
        batch.changed.append(TicketReplica.of(event))


async def save_replicas(tx: Transaction, batch: ReplicaBatch) -> None:
    await store.save_tickets(tx, batch.changed)


# Orders


@dataclass
class OrdersAndTickets:
    """The orders that a batch of events is about, locked, and for payments the replicas of their tickets."""

    orders: dict[UUID, Order]
    tickets: dict[UUID, TicketReplica] = field(default_factory=dict)
    changed: dict[UUID, Order] = field(default_factory=dict)

    def change(self, tx: Transaction, order: Order) -> None:
        assert order.id not in self.changed, "a second change of one order in a batch"
        self.orders[order.id] = self.changed[order.id] = order
        tx.publish(order.event())


OrderRelated = TicketLockRefused | OrderExpired | PaymentAuthorized | PaymentCreated | PaymentFailed


async def load_orders(tx: Transaction, events: Sequence[OrderRelated]) -> OrdersAndTickets:
    return OrdersAndTickets(await store.orders_for_change(tx, [event.order_id for event in events]))


async def load_orders_and_tickets(tx: Transaction, events: Sequence[PaymentAuthorized]) -> OrdersAndTickets:
    orders = await store.orders_for_change(tx, [event.order_id for event in events])
    return OrdersAndTickets(orders, await store.tickets(tx, [order.ticket_id for order in orders.values()]))


async def save_orders(tx: Transaction, batch: OrdersAndTickets) -> None:
    await store.save_orders(tx, list(batch.changed.values()))


def ticket_lock_refused(tx: Transaction, batch: OrdersAndTickets, event: TicketLockRefused) -> None:
    """The seller edited the ticket before the lock: the buyer would get something else than was ordered."""
    order = batch.orders.get(event.order_id)
    if order is not None and order.status == "created":
        batch.change(tx, order.cancelled("ticket_changed"))
    else:
        log.info("refused lock changes nothing", extra={"order": event.order_id})


def order_expired(tx: Transaction, batch: OrdersAndTickets, event: OrderExpired) -> None:
    """Cancel the order if it is overdue by this database's clock; the signal itself decides nothing."""
    order = batch.orders.get(event.order_id)
    if order is not None and order.is_overdue(tx.now):
        batch.change(tx, order.cancelled("expired"))
    else:
        status = order.status if order is not None else "unknown"
        log.info("deadline changes nothing", extra={"order": event.order_id, "status": status})


def payment_authorized(tx: Transaction, batch: OrdersAndTickets, event: PaymentAuthorized) -> None:
    """Decide, under the order's lock, whether this money may be taken; an order that awaits it no longer expires."""
    order = batch.orders.get(event.order_id)
    if order is not None and order.payment_id == event.id:
        log.info("payment was accepted before", extra={"order": order.id, "payment": event.id})
        return
    if order is None or not order.accepts(event.user_id, event.amount_cents, event.currency):
        tx.publish(PaymentRejected(order_id=event.order_id, payment_id=event.id))
        return
    ticket = batch.tickets.get(order.ticket_id)
    if ticket is None or ticket.order_id != order.id:
        # Tickets has not confirmed the lock, and refuses it if the seller edited the ticket meanwhile.
        raise MissingEvents(TicketUpdated.producer, order.ticket_id, -1 if ticket is None else ticket.version)
    batch.change(tx, order.awaiting_payment(event.id))


def payment_created(tx: Transaction, batch: OrdersAndTickets, event: PaymentCreated) -> None:
    order = batch.orders.get(event.order_id)
    if order is not None and order.awaits(event.id):
        batch.change(tx, order.completed())
    elif order is not None and order.payment_id == event.id and order.status == "complete":
        log.info("order was complete before", extra={"order": order.id})
    else:
        # A charge that no order here accepted: it must be refunded.
        log.error("charge without an order that awaits it", extra={"order": event.order_id, "payment": event.id})
        tx.publish(PaymentRejected(order_id=event.order_id, payment_id=event.id))


def payment_failed(tx: Transaction, batch: OrdersAndTickets, event: PaymentFailed) -> None:
    """No attempt is left, or an authorisation was lost before its capture: the ticket goes back on sale."""
    order = batch.orders.get(event.order_id)
    if order is not None and order.is_cancelled_by_failure_of(event.id):
        batch.change(tx, order.cancelled("payment_failed"))
    else:
        log.info("failed payment changes nothing", extra={"order": event.order_id, "payment": event.id})


async def snapshots(tx: Transaction, order_ids: Sequence[UUID]) -> list[OrderEvent]:
    """Describe orders by the events of their whole history."""
    orders = (await store.orders_for_change(tx, order_ids)).values()
    return [version.event() for order in orders for version in order.history()]


# Rebuilding what the events of this service report, in a database that was restored to an earlier time


async def rebuild_new_order(tx: Transaction, event: OrderCreated, recorded_at: datetime) -> None:
    if event.id in await store.orders_for_change(tx, [event.id]):
        return
    if event.ticket.title is None:
        raise CannotRebuild("an earlier release published the order without its offer")
    order = Order(
        id=event.id,
        version=0,
        status="created",
        buyer_id=event.user_id,
        ticket_id=event.ticket.id,
        ticket_version=event.ticket.version,
        ticket_revision=event.ticket.revision,
        offer=Offer.of(event.ticket),
        created_at=recorded_at,
        expires_at=event.expires_at,
    )
    await store.insert_order(tx, order)


async def rebuild_order(
    tx: Transaction, event: OrderAwaitingPayment | OrderCompleted | OrderCancelled, _recorded_at: datetime
) -> None:
    order = (await store.orders_for_change(tx, [event.id])).get(event.id)
    if order is None:
        raise CannotRebuild("the order is missing")
    if is_next_version(event, order.version):
        await store.save_orders(tx, [order.after(event)])
