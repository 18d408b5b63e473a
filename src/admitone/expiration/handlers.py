"""What expiration does when an order is created, and when it can no longer expire."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from admitone.events import OrderAwaitingPayment, OrderCancelled, OrderCreated
from admitone.expiration import store
from admitone.kernel.database.pool import Transaction
from admitone.kernel.messaging.handlers import MissingEvents
from admitone.kernel.messaging.replicas import Versions, load_versions


@dataclass
class DeadlineBatch:
    """The versions of the orders that a batch of events is about, and which deadlines to set and to delete."""

    orders: Versions
    created: list[OrderCreated] = field(default_factory=list)
    settled: list[UUID] = field(default_factory=list)


async def load(
    tx: Transaction, events: Sequence[OrderCreated | OrderAwaitingPayment | OrderCancelled]
) -> DeadlineBatch:
    return DeadlineBatch(await load_versions(tx, [event.id for event in events]))


def order_created(_tx: Transaction, batch: DeadlineBatch, event: OrderCreated) -> None:
    if batch.orders.advance(event):
        batch.created.append(event)


def order_settled(_tx: Transaction, batch: DeadlineBatch, event: OrderAwaitingPayment | OrderCancelled) -> None:
    """The order is paid for or has ended and cannot expire. Raises MissingEvents if its beginning has not arrived."""
    if event.id not in batch.orders:
        raise MissingEvents(event.producer, event.id)
    if batch.orders.advance(event):
        batch.settled.append(event.id)


async def save(tx: Transaction, batch: DeadlineBatch) -> None:
    advanced = await batch.orders.save(tx)
    # A concurrent transaction may have set a deadline first, and even deleted it: then it must not be set again.
    await store.set_deadlines(tx, [order for order in batch.created if order.id in advanced])
    await store.delete_deadlines(tx, batch.settled)
