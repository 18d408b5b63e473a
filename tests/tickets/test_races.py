"""Edits that race locks: in every outcome, the price of a locked ticket is the price of its order."""

import asyncio
import itertools
import random
from typing import Any, Final
from uuid import UUID

import httpx

from admitone.kernel.runner import App
from admitone.tickets import store
from tests.support import eventually, published_by
from tests.tickets.support import FADO, cancelled, completed, consume, database_of, list_ticket, order_of, show

ROUNDS: Final = 40


async def test_s13_an_edit_racing_an_order_never_changes_a_locked_price(app: App, alice: httpx.AsyncClient) -> None:
    database = database_of(app)
    outcomes = set()
    for turn in range(ROUNDS):
        ticket = await list_ticket(alice)
        order = order_of(ticket)
        lock = asyncio.create_task(consume(database, order)) if turn % 2 else None
        editing = asyncio.create_task(alice.put(f"/api/tickets/{ticket['id']}", json={**FADO, "price": 99}))
        assert await (lock or consume(database, order)) == []
        response = await editing
        after = await show(alice, ticket["id"])
        refused = [
            each for each in await published_by(app, "tickets", "TicketLockRefused") if each["orderId"] == str(order.id)
        ]
        if response.status_code == 200:
            assert (after["status"], after["price"]) == ("available", 99)
            assert len(refused) == 1
        else:
            assert response.status_code == 400
            assert (after["status"], after["price"], after["orderId"]) == ("reserved", 19.99, str(order.id))
            assert refused == []
        assert after["version"] == 1
        outcomes.add(response.status_code)
    assert outcomes == {200, 400}, "no race took place"


async def test_s13_the_lock_waits_for_an_edit_that_is_not_committed(app: App, alice: httpx.AsyncClient) -> None:
    database = database_of(app)
    ticket = await list_ticket(alice)
    order = order_of(ticket)
    async with database.transaction() as tx:
        await store.tickets_for_change(tx, [UUID(ticket["id"])])
        locking = asyncio.create_task(consume(database, order))
        await _until_a_lock_is_awaited(app)
        await tx.execute(
            "UPDATE ticket SET version = 1, revision = 1, price_cents = 9900 WHERE id = $1", UUID(ticket["id"])
        )
    assert await locking == []
    assert [each["orderId"] for each in await published_by(app, "tickets", "TicketLockRefused")] == [str(order.id)]
    assert (await show(alice, ticket["id"]))["status"] == "available"


async def test_s13_an_edit_waits_for_a_lock_that_is_not_committed(app: App, alice: httpx.AsyncClient) -> None:
    database = database_of(app)
    ticket = await list_ticket(alice)
    order = order_of(ticket)
    async with database.transaction() as tx:
        found = (await store.tickets_for_change(tx, [UUID(ticket["id"])]))[UUID(ticket["id"])]
        await store.save_locks(tx, [found.locked(order.id)])
        editing = asyncio.create_task(alice.put(f"/api/tickets/{ticket['id']}", json={**FADO, "price": 99}))
        await _until_a_lock_is_awaited(app)
    response = await editing
    assert response.status_code == 400
    assert (await show(alice, ticket["id"]))["price"] == 19.99


async def test_versions_never_skip_or_repeat_while_edits_and_orders_race(app: App, alice: httpx.AsyncClient) -> None:
    database = database_of(app)
    chance = random.Random(7)
    tickets = [await list_ticket(alice) for _ in range(4)]

    async def sell(ticket: dict[str, Any]) -> None:
        for turn in range(6):
            order = order_of(await show(alice, ticket["id"]))
            end = completed(order) if turn == 5 else cancelled(order)
            await consume(database, order)
            await consume(database, end)

    async def edit(ticket: dict[str, Any]) -> None:
        for _ in range(12):
            price = chance.choice([10, 20, 30])
            response = await alice.put(f"/api/tickets/{ticket['id']}", json={**FADO, "price": price})
            assert response.status_code in {200, 400}

    await asyncio.gather(*(work(ticket) for ticket in tickets for work in (sell, edit, edit)))
    published = await published_by(app, "tickets")
    for ticket in tickets:
        events = [each for each in published if each.get("id") == ticket["id"]]
        assert [each["version"] for each in events] == list(range(len(events)))
        for before, after in itertools.pairwise(events):
            if "reserved" in {before["status"], after["status"]}:
                assert before["priceCents"] == after["priceCents"]
            assert before["status"] != "sold"
        assert events[-1]["version"] == (await show(alice, ticket["id"]))["version"]


async def _until_a_lock_is_awaited(app: App) -> None:
    """Return once another transaction waits for a row that this one has locked."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    await eventually(lambda: database_of(app).fetchval(waiting), "a transaction waits for a lock", seconds=0.9)
