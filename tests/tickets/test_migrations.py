"""What the database refuses, whatever the code does."""

import re
import unicodedata
from collections.abc import AsyncIterator
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from admitone.kernel.database import migrations
from admitone.kernel.database.pool import Database
from admitone.kernel.ids import new_id
from admitone.tickets import store
from admitone.tickets.model import searchable_words
from admitone.tickets.views import TicketListing
from tests import engines
from tests.tickets.support import insert, listing_of, tickets_database


@pytest_asyncio.fixture
async def database(databases: engines.Databases) -> AsyncIterator[Database]:
    async with tickets_database(databases) as opened:
        yield opened


async def list_one(database: Database, *changes: str) -> UUID:
    """List a ticket and make the given changes to its row, each with its version."""
    ticket_id = UUID((await insert(database, listing_of()))["id"])
    for change in changes:
        await database.execute(f"UPDATE ticket SET version = version + 1, {change} WHERE id = $1", ticket_id)
    return ticket_id


EDITED = "revision = revision + 1"


async def test_a_locked_ticket_has_an_order_and_a_free_one_has_none(database: Database) -> None:
    for wrong in ("status = 'reserved'", f"{EDITED}, order_id = '{new_id()}'"):
        with pytest.raises(asyncpg.CheckViolationError, match="held_by_an_order"):
            await list_one(database, wrong)


@pytest.mark.parametrize(
    "change",
    ["price_cents = 2000", "title = 'Jazz'", "venue = 'Luso'", "seat = '1'", "face_value_cents = 1", "revision = 1"],
)
async def test_a_locked_ticket_is_not_edited(database: Database, change: str) -> None:
    with pytest.raises(asyncpg.RaiseError, match="is locked and cannot be edited"):
        await list_one(database, f"status = 'reserved', order_id = '{new_id()}'", change)
    with pytest.raises(asyncpg.RaiseError, match="is locked and cannot be edited"):
        await list_one(database, f"status = 'reserved', order_id = '{new_id()}', {change}")


async def test_every_edit_is_a_new_revision(database: Database) -> None:
    for wrong in ("title = 'Jazz'", f"title = 'Jazz', {EDITED} + 1", "revision = revision - 1"):
        with pytest.raises(asyncpg.RaiseError, match="is edited from revision 1 to"):
            await list_one(database, EDITED, wrong)


async def test_a_lock_is_not_passed_to_another_order(database: Database) -> None:
    for wrong in (f"order_id = '{new_id()}'", f"status = 'sold', order_id = '{new_id()}'"):
        with pytest.raises(asyncpg.RaiseError, match="is held by another order"):
            await list_one(database, f"status = 'reserved', order_id = '{new_id()}'", wrong)


async def test_a_sold_ticket_was_locked_and_never_changes(database: Database) -> None:
    ticket_id = await list_one(database, f"status = 'reserved', order_id = '{new_id()}'", "status = 'sold'")
    for wrong in ("status = 'available', order_id = NULL", "price_cents = 50", "status = 'reserved'"):
        with pytest.raises(asyncpg.RaiseError, match="is sold and never changes"):
            await database.execute(f"UPDATE ticket SET version = version + 1, {wrong} WHERE id = $1", ticket_id)
    with pytest.raises(asyncpg.RaiseError, match="sold to nobody who holds it"):
        await list_one(database, f"status = 'sold', order_id = '{new_id()}'")


@pytest.mark.parametrize("version", ["version", "version + 2", "version - 1", "0"])
async def test_versions_grow_by_one(database: Database, version: str) -> None:
    ticket_id = await list_one(database, f"{EDITED}, price_cents = 3000")
    with pytest.raises(asyncpg.RaiseError, match="goes from version 1 to"):
        await database.execute(
            f"UPDATE ticket SET {EDITED}, price_cents = 4000, version = {version} WHERE id = $1", ticket_id
        )


@pytest.mark.parametrize(
    "change", ["seller_id = '00000000-0000-7000-8000-000000000001'", "currency = 'eur'", "created_at = '2020-01-01Z'"]
)
async def test_the_seller_the_currency_and_the_age_never_change(database: Database, change: str) -> None:
    with pytest.raises(asyncpg.RaiseError, match="cannot change its seller"):
        await list_one(database, change)


@pytest.mark.parametrize(
    "change",
    [
        "price_cents = 49",
        "price_cents = 100000000",
        "face_value_cents = -1",
        "face_value_cents = 100000000",
        "title = ''",
        "venue = ''",
        "note = repeat('x', 501)",
    ],
)
async def test_values_out_of_range_are_not_stored(database: Database, change: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await list_one(database, f"{EDITED}, {change}")


async def test_one_order_holds_one_ticket(database: Database) -> None:
    hold = f"status = 'reserved', order_id = '{new_id()}'"
    await list_one(database, hold)
    with pytest.raises(asyncpg.UniqueViolationError, match="one_ticket_per_order"):
        await list_one(database, hold)


async def test_a_ticket_is_never_deleted(database: Database) -> None:
    ticket_id = await list_one(database)
    for statement in ("DELETE FROM ticket WHERE id = $1", "TRUNCATE ticket"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.execute(statement, *([ticket_id] if "$1" in statement else []))


async def test_the_json_always_agrees_with_the_row(database: Database) -> None:
    ticket_id = await list_one(database, f"""{EDITED}, price_cents = 2050, shown = '{{"price":1}}'""")
    found = await store.shown_ticket(database, ticket_id)
    assert found is not None
    assert b'"price":20.50,' in found[1]


TITLES = [
    "Kłusowski & Bjørn Ærø", "Đorđe Œuvre Þór", "Iĸ ŋ ħ ŧ ı", "Fado night", "コンサート大阪2027",
    "大阪フィルハーモニー交響楽団演奏会", "J-popコンサートEN 𠮷野家", "Straße İstanbul", f"{'æ' * 90} x",
]  # fmt: skip


def words_until_0004(text: str) -> list[str]:
    plain = "".join(each for each in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(each))
    return sorted({word[:100] for word in re.findall(r"[^\W_]+", plain)})


async def test_older_tickets_get_the_words_of_newer_ones(databases: engines.Databases) -> None:
    fresh = await databases.fresh("tickets")
    database = await Database.connect(fresh.url, application="tickets")
    owner = await asyncpg.connect(fresh.migrator_url)
    try:
        offers = {}
        for title in TITLES:
            listing = TicketListing(title=title, price=Decimal(20), venue="Łódź")
            offers[UUID((await insert(database, listing))["id"])] = listing.offer("usd")
        await owner.execute("ALTER TABLE ticket DISABLE TRIGGER guard_ticket")
        for ticket_id, offer in offers.items():
            words = words_until_0004(f"{offer.title} {offer.venue}")
            await owner.execute(
                "UPDATE ticket SET words = array_to_tsvector($2::text[]) WHERE id = $1", ticket_id, words
            )
        await owner.execute("ALTER TABLE ticket ENABLE TRIGGER guard_ticket")
        [sql] = [sql for name, sql in migrations.known("tickets") if name == "tickets/0005_words.sql"]
        await owner.execute(sql)
        rows = await owner.fetch("SELECT id, version, tsvector_to_array(words) AS words FROM ticket")
        assert {row["id"]: sorted(row["words"]) for row in rows} == {
            ticket_id: searchable_words(offer) for ticket_id, offer in offers.items()
        }
        assert {row["version"] for row in rows} == {0}
        with pytest.raises(asyncpg.RaiseError, match="goes from version"):
            await owner.execute("UPDATE ticket SET title = 'Jazz'")
    finally:
        await owner.close()
        await database.close()
