"""The alarm clock: it rings when a deadline has passed, until orders says that the order is settled."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest_asyncio

from admitone.events import OrderAwaitingPayment, OrderCancelled, OrderCreated, OrderedTicket
from admitone.expiration.service import SERVICE
from admitone.kernel import clock
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import Event, unwrap, wrap
from admitone.kernel.messaging.inbox import Inbox, MissingEvents
from admitone.kernel.runner import App
from tests import engines
from tests.support import StartNats, eventually, running_app, told_by


@pytest_asyncio.fixture
async def app(databases: engines.Databases, start_nats: StartNats) -> AsyncIterator[App]:
    async with running_app(databases, start_nats, SERVICE) as running:
        yield running


async def hear(app: App, *events: Event) -> list[MissingEvents]:
    database = app.running["expiration"].database
    inbox = Inbox("expiration", database, Bus("expiration"), SERVICE.subscriptions)
    messages = [
        wrap(new_id(), each.producer, type(each).__name__, each.aggregate, clock.now(), each.encode(), None)
        for each in events
    ]
    async with database.transaction() as tx:
        return list((await inbox.consume(tx, [unwrap(message) for message in messages])).values())


def made(*, seconds: float) -> OrderCreated:
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


async def rung_for(app: App, order: OrderCreated) -> int:
    return sum(each["orderId"] == str(order.id) for each in await told_by(app, "expiration"))


async def test_g11_it_rings_once_the_deadline_has_passed_and_not_before(app: App) -> None:
    soon, later = made(seconds=0.3), made(seconds=60)
    await hear(app, later, soon)
    await eventually(lambda: rung_for(app, soon), "the alarm")
    [row] = await app.running["expiration"].database.fetch("SELECT recorded_at, data FROM outbox")
    assert soon.expires_at <= row["recorded_at"]
    assert await rung_for(app, later) == 0


async def test_g11_a_deadline_that_passed_while_it_was_down_rings_at_once(app: App) -> None:
    order = made(seconds=-3600)
    await hear(app, order)
    await eventually(lambda: rung_for(app, order), "the alarm")


async def test_g11_it_rings_again_until_the_order_is_settled(app: App) -> None:
    order = made(seconds=-1)
    await hear(app, order)

    async def rung_twice() -> bool:
        return await rung_for(app, order) >= 2

    await eventually(rung_twice, "a second ring")
    await hear(app, cancelled(order))
    assert await app.running["expiration"].database.fetchval("SELECT count(*) FROM deadline") == 0


async def test_g11_a_settled_order_has_no_alarm(app: App) -> None:
    paid, given_up = made(seconds=60), made(seconds=60)
    await hear(app, paid, given_up, awaiting(paid), cancelled(given_up))
    assert await app.running["expiration"].database.fetchval("SELECT count(*) FROM deadline") == 0


async def test_g11_events_in_the_wrong_sequence_wait_for_the_first(app: App) -> None:
    order = made(seconds=60)
    [gap] = await hear(app, cancelled(order))
    assert (gap.producer, gap.aggregate) == ("orders", order.id)
    assert await hear(app, order, cancelled(order)) == []
    assert await app.running["expiration"].database.fetchval("SELECT count(*) FROM deadline") == 0


async def test_g13_events_heard_again_set_no_second_alarm(app: App) -> None:
    order = made(seconds=60)
    await hear(app, order, cancelled(order), order, order)
    assert await app.running["expiration"].database.fetchval("SELECT count(*) FROM deadline") == 0
