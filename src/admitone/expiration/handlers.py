"""What sets and drops alarms."""

from admitone.events import OrderAwaitingPayment, OrderCancelled, OrderCreated
from admitone.expiration import store
from admitone.kernel.database import Transaction
from admitone.kernel.followed import is_news


async def order_created(tx: Transaction, event: OrderCreated) -> None:
    if await is_news(tx, event.producer, event.id, event.version):
        await store.set_deadline(tx, event.id, event.expires_at)


async def order_settled(tx: Transaction, event: OrderAwaitingPayment | OrderCancelled) -> None:
    """Paid for or over: it cannot expire any more."""
    if await is_news(tx, event.producer, event.id, event.version):
        await store.drop_deadline(tx, event.id)
