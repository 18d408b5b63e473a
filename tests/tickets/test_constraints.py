"""What the database itself refuses, whatever the code above it does."""

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from admitone.kernel.database.pool import Database
from admitone.kernel.ids import new_id
from admitone.kernel.money import decimal_of
from admitone.tickets import store
from admitone.tickets.model import Ticket, TicketListing
from tests import engines
from tests.tickets.support import tickets_database


@pytest_asyncio.fixture
async def database(databases: engines.Databases) -> AsyncIterator[Database]:
    async with tickets_database(databases) as opened:
        yield opened


async def offer(database: Database, *changes: str) -> UUID:
    """Put a ticket on sale and make the given changes to its row, each with its version."""
    listing = TicketListing(title="Fado night", price=decimal_of(1999))
    ticket = Ticket.listed(new_id(), new_id(), listing, "usd")
    async with database.transaction() as tx:
        await store.list_ticket(tx, ticket, listing)
    for change in changes:
        await database.execute(f"UPDATE ticket SET version = version + 1, {change} WHERE id = $1", ticket.id)
    return ticket.id


async def test_a_lock_has_a_holder_and_what_is_free_has_none(database: Database) -> None:
    for wrong in ("status = 'reserved'", f"order_id = '{new_id()}'"):
        with pytest.raises(asyncpg.CheckViolationError, match="held_by_an_order"):
            await offer(database, wrong)


@pytest.mark.parametrize("change", ["price_cents = 2000", "title = 'Jazz'", "venue = 'Luso'", "seat = '1'"])
async def test_a_locked_ticket_is_not_edited(database: Database, change: str) -> None:
    with pytest.raises(asyncpg.RaiseError, match="is locked and cannot be edited"):
        await offer(database, f"status = 'reserved', order_id = '{new_id()}'", change)
    with pytest.raises(asyncpg.RaiseError, match="is locked and cannot be edited"):
        await offer(database, f"status = 'reserved', order_id = '{new_id()}', {change}")


async def test_a_lock_passes_to_no_other_order(database: Database) -> None:
    for wrong in (f"order_id = '{new_id()}'", f"status = 'sold', order_id = '{new_id()}'"):
        with pytest.raises(asyncpg.RaiseError, match="is held by another order"):
            await offer(database, f"status = 'reserved', order_id = '{new_id()}'", wrong)


async def test_sold_is_the_end_and_follows_a_lock(database: Database) -> None:
    ticket_id = await offer(database, f"status = 'reserved', order_id = '{new_id()}'", "status = 'sold'")
    for wrong in ("status = 'available', order_id = NULL", "price_cents = 50", "status = 'reserved'"):
        with pytest.raises(asyncpg.RaiseError, match="is sold and never changes"):
            await database.execute(f"UPDATE ticket SET version = version + 1, {wrong} WHERE id = $1", ticket_id)
    with pytest.raises(asyncpg.RaiseError, match="sold to nobody who holds it"):
        await offer(database, f"status = 'sold', order_id = '{new_id()}'")


@pytest.mark.parametrize("version", ["version", "version + 2", "version - 1", "0"])
async def test_versions_grow_by_one(database: Database, version: str) -> None:
    ticket_id = await offer(database, "price_cents = 3000")
    with pytest.raises(asyncpg.RaiseError, match="goes from version 1 to"):
        await database.execute(f"UPDATE ticket SET price_cents = 4000, version = {version} WHERE id = $1", ticket_id)


@pytest.mark.parametrize(
    "change", ["user_id = '00000000-0000-7000-8000-000000000001'", "currency = 'eur'", "created_at = '2020-01-01Z'"]
)
async def test_the_seller_the_currency_and_the_age_stay(database: Database, change: str) -> None:
    with pytest.raises(asyncpg.RaiseError, match="cannot change its seller"):
        await offer(database, change)


@pytest.mark.parametrize(
    "change", ["price_cents = 49", "price_cents = 100000000", "title = ''", "venue = ''", "note = repeat('x', 501)"]
)
async def test_what_nobody_may_say_is_not_stored(database: Database, change: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await offer(database, change)


async def test_one_order_holds_one_ticket(database: Database) -> None:
    hold = f"status = 'reserved', order_id = '{new_id()}'"
    await offer(database, hold)
    with pytest.raises(asyncpg.UniqueViolationError, match="one_ticket_per_order"):
        await offer(database, hold)


async def test_a_ticket_is_never_deleted(database: Database) -> None:
    ticket_id = await offer(database)
    for statement in ("DELETE FROM ticket WHERE id = $1", "TRUNCATE ticket"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.execute(statement, *([ticket_id] if "$1" in statement else []))


async def test_what_is_shown_cannot_differ_from_what_is_kept(database: Database) -> None:
    ticket_id = await offer(database, """price_cents = 2050, shown = '{"price":1}'""")
    found = await store.shown_ticket(database, ticket_id)
    assert found is not None
    assert b'"price":20.50,' in found[1]
