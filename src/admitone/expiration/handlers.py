"""What expiration does when an order begins or can no longer expire."""

from admitone.events import OrderAwaitingPayment, OrderCancelled, OrderCreated
from admitone.expiration import store
from admitone.kernel.database.pool import Transaction
from admitone.kernel.messaging import replicas
from admitone.kernel.messaging.inbox import MissingEvents


async def order_created(tx: Transaction, event: OrderCreated) -> None:
    await store.set_deadlines(tx, [event])


async def order_settled(tx: Transaction, event: OrderAwaitingPayment | OrderCancelled) -> None:
    """The order is being paid for, or is over: it cannot expire any more."""
    if event.id not in await replicas.versions(tx, [event.id]):
        raise MissingEvents(event.producer, event.id)
    await store.drop_deadlines(tx, [event])
