"""What sets and drops alarms."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from admitone.events import OrderAwaitingPayment, OrderCancelled, OrderCreated
from admitone.expiration import store
from admitone.kernel.database import Transaction
from admitone.kernel.followed import is_known
from admitone.kernel.inbox import Heard, MissingEvents

Settled = OrderAwaitingPayment | OrderCancelled


async def orders_created(tx: Transaction, heard: Sequence[Heard[OrderCreated]]) -> Mapping[UUID, None]:
    orders = [each.event for each in heard]
    await store.set_deadlines(tx, orders)
    return {order.id: None for order in orders}


async def orders_settled(tx: Transaction, heard: Sequence[Heard[Settled]]) -> Mapping[UUID, None]:
    """Paid for or over: they cannot expire any more."""
    return dict.fromkeys(await store.drop_deadlines(tx, [each.event for each in heard]))


async def order_settled(tx: Transaction, event: Settled) -> None:
    """Raises MissingEvents while the order's beginning has not come."""
    if not await is_known(tx, event.id):
        raise MissingEvents(event.producer, event.id)
    await store.drop_deadlines(tx, [event])
