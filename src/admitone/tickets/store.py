"""What tickets keeps: each statement that reads or writes a ticket."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from admitone.kernel.database.pool import Database, Row, Statements, Transaction, affected_rows, columns
from admitone.tickets.cursor import Place, key_of, moment_of, pack, unpack
from admitone.tickets.model import OwnTicketsPage, Sort, Ticket, TicketListing, TicketSearch, words_of

_COLUMNS: Final = "id, version, user_id, title, price_cents, currency, status, order_id"

# Writing: the trigger `guard_ticket` adds the JSON that the API shows.

_LIST: Final = """
INSERT INTO ticket
    (id, user_id, title, price_cents, currency, event_date, venue, section, "row", seat, note, words)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, array_to_tsvector($12::text[]))
RETURNING shown
"""
_EDIT: Final = """
UPDATE ticket SET
    version = $2, title = $3, price_cents = $4, event_date = $5, venue = $6, section = $7, "row" = $8, seat = $9,
    note = $10, words = array_to_tsvector($11::text[])
WHERE id = $1 AND version = $2 - 1 AND status = 'available'
RETURNING shown
"""
_SAVE_HOLDS: Final = """
UPDATE ticket SET version = changed.version, status = changed.status, order_id = changed.order_id
FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::uuid[]) AS changed (id, version, status, order_id)
WHERE ticket.id = changed.id AND ticket.version = changed.version - 1
"""
# Rows are locked in one order everywhere, so that two batches cannot deadlock.
_FOR_CHANGE: Final = f"SELECT {_COLUMNS} FROM ticket WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE"  # noqa: S608


async def list_ticket(tx: Transaction, ticket: Ticket, listing: TicketListing) -> bytes:
    """Put a ticket on sale and tell it; return its JSON."""
    shown: str = await tx.fetchval(
        _LIST,
        ticket.id,
        ticket.user_id,
        ticket.title,
        ticket.price_cents,
        ticket.currency,
        *_details(listing),
        listing.words,
    )
    tx.publish(ticket.listed_fact())
    return shown.encode()


async def tickets_for_change(tx: Transaction, ticket_ids: Sequence[UUID]) -> dict[UUID, Ticket]:
    """Return tickets by id and lock their rows until the transaction ends."""
    return {row["id"]: Ticket(**dict(row.items())) for row in await tx.fetch(_FOR_CHANGE, ticket_ids)}


async def save_edit(tx: Transaction, edited: Ticket, listing: TicketListing) -> bytes:
    """Write what is offered now and tell it; return the ticket's JSON. The row must be at the version before."""
    shown: str | None = await tx.fetchval(
        _EDIT, edited.id, edited.version, edited.title, edited.price_cents, *_details(listing), listing.words
    )
    assert shown is not None, f"ticket {edited.id} was changed by somebody else while it was locked"
    tx.publish(edited.changed_fact())
    return shown.encode()


async def save_holds(tx: Transaction, changed: Sequence[Ticket]) -> None:
    """Write the version, status and order of locked tickets; each row must still have the version before."""
    if changed:
        tag = await tx.execute(_SAVE_HOLDS, *columns(changed, "id", "version", "status", "order_id"))
        assert affected_rows(tag) == len(changed), "a ticket was changed while it was locked"


def _details(listing: TicketListing) -> tuple[datetime | str | None, ...]:
    return listing.event_date, listing.venue, listing.section, listing.row, listing.seat, listing.note


# Reading: the JSON was made when the ticket was written, so a page is rows joined with commas.


async def shown_ticket(db: Statements, ticket_id: UUID) -> tuple[int, bytes] | None:
    """Return a ticket's version and JSON, whatever its state."""
    row = await db.fetchrow("SELECT version, shown FROM ticket WHERE id = $1", ticket_id)
    return None if row is None else (row["version"], row["shown"].encode())


@dataclass(frozen=True)
class _Ordering:
    """How a list is sorted: by `key`, then by id, both in the same direction. An index stands behind each."""

    key: str
    descends: bool
    is_time: bool

    @property
    def beyond(self) -> str:
        return (
            f"({self.key}, id) {'<' if self.descends else '>'} ($1::{'timestamptz' if self.is_time else 'bigint'}, $2)"
        )

    @property
    def direction(self) -> str:
        return "DESC" if self.descends else "ASC"

    @property
    def by(self) -> str:
        return f"{self.key} {self.direction}, id {self.direction}"

    @property
    def first(self) -> tuple[Any, UUID]:
        """The place before the first ticket, so that a first page needs no statement of its own."""
        if self.is_time:
            return (_LATEST, _LAST_ID) if self.descends else (_EARLIEST, _FIRST_ID)
        return (_DEAREST, _LAST_ID) if self.descends else (-1, _FIRST_ID)

    def after(self, scope: str, cursor: str | None) -> tuple[Any, UUID]:
        if cursor is None:
            return self.first
        place = unpack(scope, cursor)
        return (moment_of(place.key) if self.is_time else place.key), place.ticket_id

    def cursor(self, scope: str, last: Row) -> str:
        key = last["key"]
        return pack(scope, Place(key_of(key) if self.is_time else key, last["id"]))


_FIRST_ID: Final = UUID(int=0)
_LAST_ID: Final = UUID(int=2**128 - 1)
_EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
_LATEST: Final = datetime(9999, 12, 30, tzinfo=UTC)
_DEAREST: Final = 2**62

_NEWEST: Final = _Ordering("created_at", descends=True, is_time=True)
_ORDERINGS: Final[dict[Sort, _Ordering]] = {
    "newest": _NEWEST,
    "price": _Ordering("price_cents", descends=False, is_time=False),
    "-price": _Ordering("price_cents", descends=True, is_time=False),
    "date": _Ordering("coalesce(event_date, '9999-12-31Z'::timestamptz)", descends=False, is_time=True),
}

# A page plus one, to know whether there is more. The inner LIMIT says the most that can ever be asked for: without it
# the planner takes $3 for a tenth of the table, finds that too dear, and plans every request anew.
_PAGE: Final = """
SELECT * FROM (
    SELECT shown, id, {key} AS key FROM ticket
    WHERE {within} AND {beyond}
    ORDER BY {by} LIMIT 101
) AS page LIMIT $3
"""


def _page(ordering: _Ordering, within: str) -> str:
    return _PAGE.format(key=ordering.key, beyond=ordering.beyond, by=ordering.by, within=within)


_SHELF: Final = {sort: _page(each, "status = 'available'") for sort, each in _ORDERINGS.items()}
_OF_SELLER: Final = _page(_NEWEST, "user_id = $4")


# Searching. A common word is found soon along the shelf, a rare one by its index; either way round reads everything.
# PostgreSQL cannot tell which is which for words by their beginnings, so it is tried: a short stretch of the shelf, a
# long one if the short one held some, then the index.

_STRETCH: Final = """
SELECT shown, id, key FROM (
    SELECT shown, id, {key} AS key, words FROM ticket
    WHERE status = 'available' AND {beyond}
    ORDER BY {by} LIMIT {length}
) AS stretch
WHERE words @@ $4::text::tsquery LIMIT $3
"""
_INDEXED: Final = """
WITH found AS MATERIALIZED (
    SELECT {key} AS key, id FROM ticket WHERE status = 'available' AND words @@ $4::text::tsquery AND {beyond}
), page AS (
    SELECT * FROM found ORDER BY key {direction}, id {direction} LIMIT $3
)
SELECT shown, id, page.key FROM page JOIN ticket USING (id) ORDER BY page.key {direction}, id {direction}
"""
_SHORT: Final = 1_000
_LONG: Final = 16_000
# So many on the short stretch, and the long one probably has a page of them.
_PROMISING: Final = 4


def _stretch(ordering: _Ordering, length: int) -> str:
    return _STRETCH.format(key=ordering.key, beyond=ordering.beyond, by=ordering.by, length=length)


_ON_SHORT: Final = {sort: _stretch(each, _SHORT) for sort, each in _ORDERINGS.items()}
_ON_LONG: Final = {sort: _stretch(each, _LONG) for sort, each in _ORDERINGS.items()}
_BY_INDEX: Final = {
    sort: _INDEXED.format(key=each.key, beyond=each.beyond, direction=each.direction)
    for sort, each in _ORDERINGS.items()
}


async def _found(db: Database, sort: Sort, after: tuple[Any, UUID], wanted: int, query: str) -> list[Row]:
    """Return the next `wanted` tickets that a query finds, or all there are."""
    rows = await db.fetch(_ON_SHORT[sort], *after, wanted, query)
    if _PROMISING <= len(rows) < wanted:
        rows = await db.fetch(_ON_LONG[sort], *after, wanted, query)
    return rows if len(rows) == wanted else await db.fetch(_BY_INDEX[sort], *after, wanted, query)


async def shelf(db: Database, search: TicketSearch) -> bytes:
    """Return the JSON of a page of tickets on sale; raises BadCursor for a cursor of another list."""
    ordering = _ORDERINGS[search.sort]
    if not search.q:
        after = ordering.after(search.sort, search.cursor)
        rows = await db.fetch(_SHELF[search.sort], *after, search.limit + 1)
        return _joined(rows, search.limit, ordering, search.sort)
    # Each word by its beginning. They hold letters and digits only, so nothing in them can end the quotation.
    query = " & ".join(f"'{word}':*" for word in words_of(search.q))
    scope = f"{search.sort} {query}"
    rows = await _found(db, search.sort, ordering.after(scope, search.cursor), search.limit + 1, query)
    return _joined(rows, search.limit, ordering, scope)


async def tickets_of_seller(db: Statements, person: UUID, page: OwnTicketsPage) -> bytes:
    """Return the JSON of a page of somebody's tickets in every state, the newest first; raises BadCursor."""
    scope = f"seller {person}"
    rows = await db.fetch(_OF_SELLER, *_NEWEST.after(scope, page.cursor), page.limit + 1, person)
    return _joined(rows, page.limit, _NEWEST, scope)


def _joined(rows: Sequence[Row], limit: int, ordering: _Ordering, scope: str) -> bytes:
    shown = ",".join([row["shown"] for row in rows[:limit]])
    cursor = f'"{ordering.cursor(scope, rows[limit - 1])}"' if len(rows) > limit else "null"
    return f'{{"tickets":[{shown}],"cursor":{cursor}}}'.encode()
