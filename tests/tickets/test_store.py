"""Listings page by page: every ticket once and in order, in each sort, and while tickets change."""

import contextlib
import json
from collections.abc import Callable
from typing import Any, Final

import httpx
import pytest

from admitone.kernel.database.pool import Database
from admitone.kernel.http.parsing import read_fields
from admitone.kernel.ids import new_id
from admitone.tickets import store
from admitone.tickets.model import Position
from admitone.tickets.views import BadCursor, TicketListing, TicketSearch, tickets_json, write_cursor
from tests import engines
from tests.support import messages_of
from tests.tickets.support import cancelled, consume, insert, list_ticket, order_of, tickets_database

FOR_EVERY_SORT: Final = pytest.mark.parametrize("sort", ["newest", "price", "-price", "date"])
DATES: Final = (None, "2027-05-01T19:30:00Z", "2027-05-01T19:30:01Z", "2031-01-01T00:00:00Z")
SELLER: Final = new_id()


def in_order(sort: str) -> Callable[[dict[str, Any]], Any]:
    keys: dict[str, Callable[[dict[str, Any]], Any]] = {
        "newest": lambda ticket: (ticket["createdAt"], ticket["id"]),
        "price": lambda ticket: (ticket["price"], ticket["id"]),
        "-price": lambda ticket: (ticket["price"], ticket["id"]),
        "date": lambda ticket: (ticket.get("eventDate", "9"), ticket["id"]),
    }
    return keys[sort]


async def list_one(
    database: Database, number: int, title: str = "Fado night", venue: str | None = None
) -> dict[str, Any]:
    """List a ticket; few prices and dates, so that many tickets share them."""
    fields = {"title": title, "price": 10 + number % 3, "eventDate": DATES[number % 4], "venue": venue}
    return await insert(database, read_fields(fields, TicketListing), SELLER)


async def page(database: Database, **query: Any) -> dict[str, Any]:
    search = TicketSearch(**query)
    rows = await store.listings(database, search.sort, search.words, search.after, search.limit)
    found: dict[str, Any] = json.loads(tickets_json(rows.tickets, search.scope, rows.following))
    assert list(found) == ["tickets", "cursor"]
    return found


async def walk(database: Database, after_page: Callable[[], Any] | None = None, **query: Any) -> list[dict[str, Any]]:
    """Follow the cursors to the end."""
    seen: list[dict[str, Any]] = []
    cursor = None
    while True:
        found = await page(database, cursor=cursor, **query)
        seen += found["tickets"]
        cursor = found["cursor"]
        if cursor is None:
            return seen
        assert len(found["tickets"]) == query["limit"]
        if after_page is not None:
            await after_page()


@FOR_EVERY_SORT
async def test_every_ticket_comes_once_and_in_order(databases: engines.Databases, sort: str) -> None:
    async with tickets_database(databases) as database:
        tickets = [await list_one(database, number) for number in range(24)]
        expected = sorted(tickets, key=in_order(sort), reverse=sort in {"newest", "-price"})
        for limit in (1, 3, 24, 100):
            assert await walk(database, sort=sort, limit=limit) == expected
            assert await walk(database, sort=sort, limit=limit, q="fado nig") == expected


@FOR_EVERY_SORT
async def test_new_listings_neither_hide_nor_repeat_others(databases: engines.Databases, sort: str) -> None:
    async with tickets_database(databases) as database:
        tickets = [await list_one(database, number) for number in range(20)]
        numbers = iter(range(10))

        async def list_two_more() -> None:
            for number in (next(numbers, None), next(numbers, None)):
                if number is not None:
                    await list_one(database, number)

        seen = await walk(database, list_two_more, sort=sort, limit=3)
        ids = [ticket["id"] for ticket in seen]
        assert len(ids) == len(set(ids))
        assert {ticket["id"] for ticket in tickets} <= set(ids)
        assert seen == sorted(seen, key=in_order(sort), reverse=sort in {"newest", "-price"})


@FOR_EVERY_SORT
async def test_locks_and_releases_do_not_move_other_tickets(databases: engines.Databases, sort: str) -> None:
    async with tickets_database(databases) as database:
        tickets = [await list_one(database, number) for number in range(12)]
        moving = [order_of(ticket) for ticket in tickets[::3]]
        staying = [ticket for number, ticket in enumerate(tickets) if number % 3]
        events = iter([*moving, *(cancelled(order) for order in moving)])

        async def lock_or_release() -> None:
            if (event := next(events, None)) is not None:
                await consume(database, event)

        seen = await walk(database, lock_or_release, sort=sort, limit=2)
        still = [ticket for ticket in seen if ticket["version"] == 0 and ticket in staying]
        assert sorted(ticket["id"] for ticket in still) == sorted(ticket["id"] for ticket in staying)


# Searching


async def test_a_search_finds_words_by_prefix(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        other = await list_one(database, 0, title="Jazz at noon", venue="Hot Clube")
        ticket = await list_one(database, 1, title="Fado Night 22 with AC/DC", venue="Café Luso")
        questions = ("Fado", "fado night", "NIGHT", "nig fa", "luso", "cafe", "CAFÉ", "Cafe\u0301")
        punctuated = ("ac/dc", "dc", "ac-dc", "  fado,, ", "fado'", "2²")
        for q in (*questions, *punctuated):
            assert (await page(database, q=q))["tickets"] == [ticket], q
        assert (await page(database, q=""))["tickets"] == [ticket, other]


MANY: Final = """
INSERT INTO ticket (id, seller_id, title, price_cents, currency, event_date, words)
SELECT gen_random_uuid(), $1, word, 1000 + n % 7, 'usd', '2027-05-01Z'::timestamptz + n % 11 * '1 day'::interval,
    array_to_tsvector(ARRAY[word])
FROM generate_series(1, 2400) AS n,
    LATERAL (SELECT CASE WHEN n % 200 = 0 THEN 'rare' WHEN n % 2 = 0 THEN 'common' ELSE 'other' END AS word) AS named
"""


@FOR_EVERY_SORT
async def test_a_search_finds_the_same_by_scan_and_by_index(databases: engines.Databases, sort: str) -> None:
    """Common words are found by a scan, rare ones by the index, and others by both."""
    async with tickets_database(databases) as database:
        await database.execute(MANY, SELLER)
        everything = await walk(database, sort=sort, limit=100)
        assert everything == sorted(everything, key=in_order(sort), reverse=sort in {"newest", "-price"})
        for word, count in (("common", 1188), ("rare", 12), ("nothing", 0)):
            expected = [ticket for ticket in everything if ticket["title"] == word]
            assert len(expected) == count
            for limit in (5, 11, 12, 100):
                assert await walk(database, sort=sort, limit=limit, q=word[:4]) == expected


async def test_operators_in_a_search_mean_nothing(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await list_one(database, 1, title="Fado night")
        for q in (
            "jazz",
            "ado",
            "fado jazz",
            "!!!",
            "'",
            "\\",
            ":*",
            "() | fado x",
            "<->",
            "%",
            "_",
            "fado | jazz",
            "x')--",
        ):
            assert (await page(database, q=q))["tickets"] == [], q
        for q in ("fado & !night", "fado:", "fado:*", "fado <-> night", "fado%", "night fado", "(fado", "fado\\"):
            assert (await page(database, q=q))["tickets"] == [ticket], q


async def test_a_title_of_the_longest_words_can_be_listed_and_found(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        for title in ("\u337f" * 200, "\ufdfa" * 200, "a" * 200, "𝕬" * 200, "é" * 200):
            ticket = await list_one(database, 0, title=title)
            assert (await page(database, q=title))["tickets"] == [ticket]


# Cursors


async def test_a_cursor_is_valid_only_for_its_sort_and_search(alice: httpx.AsyncClient) -> None:
    for _ in range(3):
        await list_ticket(alice)
    first = (await alice.get("/api/tickets", params={"limit": 1, "sort": "price", "q": "fado"})).json()["cursor"]
    same = await alice.get("/api/tickets", params={"limit": 2, "sort": "price", "q": "FADO ", "cursor": first})
    assert len(same.json()["tickets"]) == 2
    for other in ({"sort": "-price", "q": "fado"}, {"sort": "price", "q": "fad"}, {"sort": "price"}, {"q": "fado"}, {}):
        response = await alice.get("/api/tickets", params={**other, "cursor": first})
        assert response.status_code == 400
        assert messages_of(response) == [("Cursor is not valid for this list", "cursor")]
    assert (await alice.get("/api/tickets/mine", params={"cursor": first})).status_code == 400


@FOR_EVERY_SORT
async def test_a_forged_cursor_is_refused_or_starts_elsewhere(databases: engines.Databases, sort: str) -> None:
    async with tickets_database(databases) as database:
        await list_one(database, 0)
        for key in (-(2**63), -(2**62), 2**62, 2**63 - 1, 253402300800_000000):
            with contextlib.suppress(BadCursor):
                await page(database, sort=sort, cursor=write_cursor(sort, Position(key, SELLER)))
