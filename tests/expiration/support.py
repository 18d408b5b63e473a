"""What the tests of expiration share: orders at distances from their deadline, and what was signalled."""

from datetime import timedelta

from admitone.events import OrderAwaitingPayment, OrderCancelled, OrderCreated, OrderedTicket
from admitone.expiration.service import SERVICE
from admitone.kernel import clock
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.event import Event
from admitone.kernel.messaging.handlers import MissingEvents
from admitone.kernel.runner import App
from tests import inbox
from tests.support import published_by


async def consume(app: App, *events: Event) -> list[MissingEvents]:
    return await inbox.consume(SERVICE, app.running["expiration"].database, *events)


def created(*, seconds: float) -> OrderCreated:
    """An order whose deadline is that far away."""
    return OrderCreated(
        id=new_id(), version=0, status="created", user_id=new_id(), expires_at=clock.now() + timedelta(seconds=seconds),
        ticket=OrderedTicket(id=new_id(), version=0, price_cents=100, currency="usd"),
    )  # fmt: skip


def cancelled(order: OrderCreated) -> OrderCancelled:
    return OrderCancelled(
        id=order.id, version=1, user_id=order.user_id, ticket_id=order.ticket.id, reason="cancelled_by_buyer"
    )


def awaiting(order: OrderCreated) -> OrderAwaitingPayment:
    return OrderAwaitingPayment(
        id=order.id, version=1, user_id=order.user_id, ticket_id=order.ticket.id, payment_id=new_id()
    )


async def deadlines(app: App) -> int:
    count: int = await app.running["expiration"].database.fetchval("SELECT count(*) FROM deadline")
    return count


async def signals_for(app: App, order: OrderCreated) -> int:
    return sum(each["orderId"] == str(order.id) for each in await published_by(app, "expiration"))
