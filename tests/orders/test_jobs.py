"""Overdue orders are cancelled even if no signal of their deadline comes."""

import pytest

from admitone.events import OrderCancelled
from admitone.kernel.ids import new_id
from admitone.orders import jobs
from admitone.orders.service import SERVICE as ORDERS
from tests import engines
from tests.orders.support import consume, listed, published, reserve
from tests.support import StartNats, eventually, running_app


async def test_overdue_orders_are_cancelled_after_the_grace_period(
    databases: engines.Databases, start_nats: StartNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(jobs, "_PAUSE_SECONDS", 0.05)
    async with running_app(databases, start_nats, ORDERS) as app:
        database = app.running["orders"].database
        overdue, live = listed(), listed()
        await consume(database, overdue, live)
        await reserve(database, overdue.id, new_id(), hold_seconds=0)
        await reserve(database, live.id, new_id())

        async def cancelled() -> list[OrderCancelled]:
            return [each for each in await published(database) if isinstance(each, OrderCancelled)]

        [event] = await eventually(cancelled, "the overdue order is cancelled")
        assert (event.ticket_id, event.version, event.reason) == (overdue.id, 1, "expired")
        seconds = await database.fetchval(
            "SELECT extract(epoch FROM recorded_at - expires_at) FROM orders JOIN outbox ON aggregate = orders.id "
            "WHERE type = 'OrderCancelled'"
        )
        assert seconds >= 0.5


async def test_an_order_that_is_locked_by_another_transaction_is_left_out(
    databases: engines.Databases, start_nats: StartNats
) -> None:
    async with running_app(databases, start_nats, ORDERS) as app:
        service = app.running["orders"]
        ticket = listed()
        await consume(service.database, ticket)
        await reserve(service.database, ticket.id, new_id(), hold_seconds=-60)
        async with service.database.transaction() as tx:
            await tx.fetch("SELECT FROM orders FOR UPDATE")
            assert await jobs._cancel_overdue(service) == 0
