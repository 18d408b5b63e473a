"""Walking along the shelf: every ticket once and in order, whatever the sort and whatever happens meanwhile."""

import contextlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from admitone.kernel.database.pool import Database
from admitone.kernel.http.parsing import read_fields
from admitone.kernel.ids import new_id
from admitone.tickets import store
from admitone.tickets.cursor import Place, pack, unpack
from admitone.tickets.model import BadCursor, OwnTicketsPage, Ticket, TicketListing, TicketSearch, words_of
from tests import engines
from tests.support import messages_of
from tests.tickets.support import cancelled, completed, hear, list_ticket, order_of, tickets_database

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


async def offer(database: Database, number: int, title: str = "Fado night", venue: str | None = None) -> dict[str, Any]:
    """Put a ticket on sale; few prices and dates, so that many tickets share them."""
    said = {"title": title, "price": 10 + number % 3, "eventDate": DATES[number % 4], "venue": venue}
    listing = read_fields(said, TicketListing)
    async with database.transaction() as tx:
        ticket = Ticket.listed(new_id(), SELLER, listing, "usd")
        found: dict[str, Any] = json.loads(await store.list_ticket(tx, ticket, listing))
        return found


async def page(database: Database, **asked: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await store.shelf(database, TicketSearch(**asked)))
    assert list(found) == ["tickets", "cursor"]
    return found


async def walk(database: Database, after_page: Callable[[], Any] | None = None, **asked: Any) -> list[dict[str, Any]]:
    """Follow the cursors to the end."""
    seen: list[dict[str, Any]] = []
    cursor = None
    while True:
        found = await page(database, cursor=cursor, **asked)
        seen += found["tickets"]
        cursor = found["cursor"]
        if cursor is None:
            return seen
        assert len(found["tickets"]) == asked["limit"]
        if after_page is not None:
            await after_page()


@FOR_EVERY_SORT
async def test_every_ticket_comes_once_and_in_order(databases: engines.Databases, sort: str) -> None:
    async with tickets_database(databases) as database:
        tickets = [await offer(database, number) for number in range(24)]
        expected = sorted(tickets, key=in_order(sort), reverse=sort in {"newest", "-price"})
        for limit in (1, 3, 24, 100):
            assert await walk(database, sort=sort, limit=limit) == expected
            assert await walk(database, sort=sort, limit=limit, q="fado nig") == expected


@FOR_EVERY_SORT
async def test_tickets_listed_meanwhile_hide_and_repeat_none(databases: engines.Databases, sort: str) -> None:
    async with tickets_database(databases) as database:
        tickets = [await offer(database, number) for number in range(20)]
        numbers = iter(range(10))

        async def list_two_more() -> None:
            for number in (next(numbers, None), next(numbers, None)):
                if number is not None:
                    await offer(database, number)

        seen = await walk(database, list_two_more, sort=sort, limit=3)
        ids = [ticket["id"] for ticket in seen]
        assert len(ids) == len(set(ids))
        assert {ticket["id"] for ticket in tickets} <= set(ids)
        assert seen == sorted(seen, key=in_order(sort), reverse=sort in {"newest", "-price"})


@FOR_EVERY_SORT
async def test_tickets_that_are_locked_and_released_meanwhile_move_no_other(
    databases: engines.Databases, sort: str
) -> None:
    async with tickets_database(databases) as database:
        tickets = [await offer(database, number) for number in range(12)]
        moving = [order_of(ticket) for ticket in tickets[::3]]
        staying = [ticket for number, ticket in enumerate(tickets) if number % 3]
        events = iter([*moving, *(cancelled(order) for order in moving)])

        async def lock_or_release() -> None:
            if (event := next(events, None)) is not None:
                await hear(database, event)

        seen = await walk(database, lock_or_release, sort=sort, limit=2)
        still = [ticket for ticket in seen if ticket["version"] == 0 and ticket in staying]
        assert sorted(ticket["id"] for ticket in still) == sorted(ticket["id"] for ticket in staying)


async def test_own_tickets_are_paged_like_the_shelf(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        tickets = [await offer(database, number) for number in range(7)]
        order = order_of(tickets[2])
        await hear(database, order, completed(order))
        seen: list[str] = []
        cursors: list[str | None] = [None]
        while len(cursors) == 1 or cursors[-1] is not None:
            found = json.loads(await store.tickets_of_seller(database, SELLER, OwnTicketsPage(3, cursors[-1])))
            seen += [ticket["id"] for ticket in found["tickets"]]
            cursors.append(found["cursor"])
        assert seen == [ticket["id"] for ticket in tickets[::-1]]
        assert len(cursors) == 4
        shelf = await page(database, limit=3)
        for seller, foreign in ((new_id(), cursors[1]), (SELLER, shelf["cursor"])):
            with pytest.raises(BadCursor):
                await store.tickets_of_seller(database, seller, OwnTicketsPage(3, foreign))


# Searching


async def test_a_search_finds_words_by_their_beginnings(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        other = await offer(database, 0, title="Jazz at noon", venue="Hot Clube")
        ticket = await offer(database, 1, title="Fado Night 22 with AC/DC", venue="Café Luso")
        questions = ("Fado", "fado night", "NIGHT", "nig fa", "luso", "cafe", "CAFÉ", "Cafe\u0301")
        punctuated = ("ac/dc", "dc", "ac-dc", "  fado,, ", "fado'", "2²")
        for q in (*questions, *punctuated):
            assert (await page(database, q=q))["tickets"] == [ticket], q
        assert (await page(database, q=""))["tickets"] == [ticket, other]


MANY: Final = """
INSERT INTO ticket (id, user_id, title, price_cents, currency, event_date, words)
SELECT gen_random_uuid(), $1, word, 1000 + n % 7, 'usd', '2027-05-01Z'::timestamptz + n % 11 * '1 day'::interval,
    array_to_tsvector(ARRAY[word])
FROM generate_series(1, 2400) AS n,
    LATERAL (SELECT CASE WHEN n % 200 = 0 THEN 'rare' WHEN n % 2 = 0 THEN 'common' ELSE 'other' END AS word) AS named
"""


@FOR_EVERY_SORT
async def test_a_search_finds_the_same_wherever_it_looks(databases: engines.Databases, sort: str) -> None:
    """Common words are found along the shelf, rare ones by their index, and those in between are looked for twice."""
    async with tickets_database(databases) as database:
        await database.execute(MANY, SELLER)
        everything = await walk(database, sort=sort, limit=100)
        assert everything == sorted(everything, key=in_order(sort), reverse=sort in {"newest", "-price"})
        for word, count in (("common", 1188), ("rare", 12), ("nothing", 0)):
            expected = [ticket for ticket in everything if ticket["title"] == word]
            assert len(expected) == count
            for limit in (5, 11, 12, 100):
                assert await walk(database, sort=sort, limit=limit, q=word[:4]) == expected


async def test_a_search_means_its_words_and_nothing_else(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        ticket = await offer(database, 1, title="Fado night")
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


@given(st.text(max_size=200))
def test_words_are_letters_and_digits_that_the_database_takes(text: str) -> None:
    for word in words_of(text):
        assert word.isalnum()
        assert 0 < len(word.encode()) <= 2046


async def test_a_title_of_the_longest_words_can_be_listed_and_found(databases: engines.Databases) -> None:
    async with tickets_database(databases) as database:
        for title in ("\u337f" * 200, "\ufdfa" * 200, "a" * 200, "𝕬" * 200, "é" * 200):
            ticket = await offer(database, 0, title=title)
            assert (await page(database, q=title))["tickets"] == [ticket]


# Cursors


@given(st.text(st.characters(codec="utf-8")), st.integers(-(2**63), 2**63 - 1), st.uuids())
def test_a_cursor_brings_its_place_back(scope: str, key: int, ticket_id: UUID) -> None:
    assert unpack(scope, pack(scope, Place(key, ticket_id))) == Place(key, ticket_id)


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=60))
def test_a_made_up_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(BadCursor):
        unpack("newest", cursor)


@given(st.integers(0, 42), st.sampled_from("ABCxyz019-_!= \n"))
def test_a_damaged_cursor_is_refused(at: int, character: str) -> None:
    cursor = pack("price", Place(1999, SELLER))
    damaged = cursor[:at] + character + cursor[at + 1 :]
    if damaged != cursor:
        with pytest.raises(BadCursor):
            unpack("price", damaged)


async def test_a_cursor_belongs_to_its_sort_and_search(alice: httpx.AsyncClient) -> None:
    for _ in range(3):
        await list_ticket(alice)
    first = (await alice.get("/api/tickets", params={"limit": 1, "sort": "price", "q": "fado"})).json()["cursor"]
    same = await alice.get("/api/tickets", params={"limit": 2, "sort": "price", "q": "FADO ", "cursor": first})
    assert len(same.json()["tickets"]) == 2
    for other in ({"sort": "-price", "q": "fado"}, {"sort": "price", "q": "fad"}, {"sort": "price"}, {"q": "fado"}, {}):
        answer = await alice.get("/api/tickets", params={**other, "cursor": first})
        assert answer.status_code == 400
        assert messages_of(answer) == [("Cursor is not valid for this list", "cursor")]
    assert (await alice.get("/api/tickets/mine", params={"cursor": first})).status_code == 400


@FOR_EVERY_SORT
async def test_a_forged_cursor_is_refused_or_begins_elsewhere(databases: engines.Databases, sort: str) -> None:
    async with tickets_database(databases) as database:
        await offer(database, 0)
        for key in (-(2**63), -(2**62), 2**62, 2**63 - 1, 253402300800_000000):
            with contextlib.suppress(BadCursor):
                await page(database, sort=sort, cursor=pack(sort, Place(key, SELLER)))


def test_a_cursor_holds_nothing_but_its_place() -> None:
    cursor = pack("newest", Place(1, SELLER))
    raw = urlsafe_b64decode(cursor + "=")
    assert raw[8:24] == SELLER.bytes
    assert len(raw) == 32
    assert urlsafe_b64encode(raw).decode().rstrip("=") == cursor
