"""The statements of tickets; the trigger `guard_ticket` adds the JSON that the API shows to each row."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from msgspec.structs import astuple

from admitone.events import Offer
from admitone.kernel.database.pool import (
    Database,
    Row,
    Statements,
    Transaction,
    affected_rows,
    column_list,
    columns,
    from_row,
)
from admitone.tickets.model import Position, Sort, Ticket, searchable_words

# Writing. Each field of an offer is a column of the same name.

_OFFER: Final = column_list(Offer)
_OFFER_PARAMETERS: Final = ", ".join(f"${4 + place}" for place in range(len(Offer.__struct_fields__)))

_INSERT: Final = f"""
INSERT INTO ticket (id, seller_id, words, {_OFFER}, created_at)
VALUES (
    $1, $2, array_to_tsvector($3::text[]), {_OFFER_PARAMETERS},
    date_trunc('milliseconds', coalesce(${4 + len(Offer.__struct_fields__)}::timestamptz, instant()))
)
RETURNING shown
"""  # noqa: S608
_SAVE_EDIT: Final = f"""
UPDATE ticket SET
    version = $2, revision = revision + 1, words = array_to_tsvector($3::text[]), ({_OFFER}) = ROW({_OFFER_PARAMETERS})
WHERE id = $1 AND version = $2 - 1 AND status = 'available'
RETURNING shown
"""  # noqa: S608
_SAVE_LOCKS: Final = """
UPDATE ticket SET version = changed.version, status = changed.status, order_id = changed.order_id
FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::uuid[]) AS changed (id, version, status, order_id)
WHERE ticket.id = changed.id AND ticket.version = changed.version - 1
"""
# Rows are locked in one order everywhere, so that two batches cannot deadlock.
_FOR_CHANGE: Final = f"""
SELECT id, version, revision, seller_id, status, order_id, {_OFFER} FROM ticket
WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE
"""  # noqa: S608


async def insert_ticket(tx: Transaction, ticket: Ticket, created_at: datetime | None = None) -> bytes:
    """Insert a ticket, which was listed now unless it was before; return its JSON."""
    words = searchable_words(ticket.offer)
    shown: str = await tx.fetchval(_INSERT, ticket.id, ticket.seller_id, words, *astuple(ticket.offer), created_at)
    return shown.encode()


async def tickets_for_change(tx: Transaction, ticket_ids: Sequence[UUID]) -> dict[UUID, Ticket]:
    """Return tickets by id and lock their rows until the transaction ends."""
    rows = await tx.fetch(_FOR_CHANGE, ticket_ids)
    return {row["id"]: from_row(Ticket, row, offer=from_row(Offer, row)) for row in rows}


async def ticket_ids_after(db: Statements, ticket_id: UUID, limit: int) -> list[UUID]:
    """Return the ids of tickets in every state that follow one, in order."""
    rows = await db.fetch("SELECT id FROM ticket WHERE id > $1 ORDER BY id LIMIT $2", ticket_id, limit)
    return [row["id"] for row in rows]


async def save_edit(tx: Transaction, edited: Ticket) -> bytes:
    """Save an edited ticket; return its JSON. The row must have the version before."""
    words = searchable_words(edited.offer)
    shown: str | None = await tx.fetchval(_SAVE_EDIT, edited.id, edited.version, words, *astuple(edited.offer))
    assert shown is not None, f"ticket {edited.id} was changed while it was locked"
    return shown.encode()


async def save_locks(tx: Transaction, changed: Sequence[Ticket]) -> None:
    """Save the version, status and order of tickets; each row must have the version before."""
    if changed:
        tag = await tx.execute(_SAVE_LOCKS, *columns(changed, "id", "version", "status", "order_id"))
        assert affected_rows(tag) == len(changed), "a ticket was changed while it was locked"


# Reading. The JSON of a ticket was made when its row was written.


async def shown_ticket(db: Statements, ticket_id: UUID) -> tuple[int, bytes] | None:
    """Return the version and the JSON of a ticket in any state."""
    row = await db.fetchrow("SELECT version, shown FROM ticket WHERE id = $1", ticket_id)
    return None if row is None else (row["version"], row["shown"].encode())


@dataclass(frozen=True)
class _Ordering:
    """How a list is sorted: by `key`, then by id, both in the same direction. Each has an index."""

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
        """The position before the first ticket, so that a first page needs no statement of its own."""
        if self.is_time:
            return (_LATEST, _LAST_ID) if self.descends else (_EARLIEST, _FIRST_ID)
        return (_HIGHEST_PRICE, _LAST_ID) if self.descends else (-1, _FIRST_ID)

    def after(self, position: Position | None) -> tuple[Any, UUID]:
        """Return the key and the id after which a page starts."""
        if position is None:
            return self.first
        return (_time_of(position.key) if self.is_time else position.key), position.ticket_id

    def position(self, row: Row) -> Position:
        return Position(_microseconds(row["key"]) if self.is_time else row["key"], row["id"])


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _time_of(microseconds: int) -> datetime:
    """Return the time of a key; only a forged cursor has one that is out of range."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return _LATEST if microseconds > 0 else _EARLIEST


_FIRST_ID: Final = UUID(int=0)
_LAST_ID: Final = UUID(int=2**128 - 1)
_EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
_LATEST: Final = datetime(9999, 12, 30, tzinfo=UTC)
_HIGHEST_PRICE: Final = 2**62

_NEWEST: Final = _Ordering("created_at", descends=True, is_time=True)
_ORDERINGS: Final[dict[Sort, _Ordering]] = {
    "newest": _NEWEST,
    "price": _Ordering("price_cents", descends=False, is_time=False),
    "-price": _Ordering("price_cents", descends=True, is_time=False),
    "date": _Ordering("coalesce(event_date, '9999-12-31Z'::timestamptz)", descends=False, is_time=True),
}

# A page plus one row, to know whether there is a next page. The inner LIMIT is the largest possible $3: without it the
# planner assumes a tenth of the table for $3, rejects the generic plan as too expensive and plans every request again.
_PAGE: Final = """
SELECT * FROM (
    SELECT shown, id, {key} AS key FROM ticket
    WHERE {condition} AND {beyond}
    ORDER BY {by} LIMIT 101
) AS page LIMIT $3
"""


def _page(ordering: _Ordering, condition: str) -> str:
    return _PAGE.format(key=ordering.key, beyond=ordering.beyond, by=ordering.by, condition=condition)


_LISTINGS: Final = {sort: _page(each, "status = 'available'") for sort, each in _ORDERINGS.items()}
_OF_SELLER: Final = _page(_NEWEST, "seller_id = $4")


# Searching. A scan in the order of the list finds a common word early, the word index a rare one; the other way round,
# each reads everything. PostgreSQL has no statistics on prefixes to choose by, so both are tried: a short scan, a long
# one if the short one found some, then the index.

_SCAN: Final = """
SELECT shown, id, key FROM (
    SELECT shown, id, {key} AS key, words FROM ticket
    WHERE status = 'available' AND {beyond}
    ORDER BY {by} LIMIT {length}
) AS scanned
WHERE words @@ $4::text::tsquery LIMIT $3
"""
_INDEX: Final = """
WITH found AS MATERIALIZED (
    SELECT {key} AS key, id FROM ticket WHERE status = 'available' AND words @@ $4::text::tsquery AND {beyond}
), page AS (
    SELECT * FROM found ORDER BY key {direction}, id {direction} LIMIT $3
)
SELECT shown, id, page.key FROM page JOIN ticket USING (id) ORDER BY page.key {direction}, id {direction}
"""
_SHORT_SCAN_ROWS: Final = 1_000
_LONG_SCAN_ROWS: Final = 16_000
# If the short scan finds this many, the long one probably finds a page.
_WORTH_A_LONG_SCAN: Final = 4


def _scan(ordering: _Ordering, length: int) -> str:
    return _SCAN.format(key=ordering.key, beyond=ordering.beyond, by=ordering.by, length=length)


_BY_SHORT_SCAN: Final = {sort: _scan(each, _SHORT_SCAN_ROWS) for sort, each in _ORDERINGS.items()}
_BY_LONG_SCAN: Final = {sort: _scan(each, _LONG_SCAN_ROWS) for sort, each in _ORDERINGS.items()}
_BY_INDEX: Final = {
    sort: _INDEX.format(key=each.key, beyond=each.beyond, direction=each.direction) for sort, each in _ORDERINGS.items()
}


async def _find(db: Database, sort: Sort, after: tuple[Any, UUID], limit: int, query: str) -> list[Row]:
    """Return the next `limit` tickets that a query finds, or all there are."""
    rows = await db.fetch(_BY_SHORT_SCAN[sort], *after, limit, query)
    if _WORTH_A_LONG_SCAN <= len(rows) < limit:
        rows = await db.fetch(_BY_LONG_SCAN[sort], *after, limit, query)
    return rows if len(rows) == limit else await db.fetch(_BY_INDEX[sort], *after, limit, query)


@dataclass(frozen=True)
class Page:
    """The JSON of each ticket of a page, and the position of the last if there are more."""

    tickets: list[str]
    following: Position | None

    @classmethod
    def of(cls, rows: Sequence[Row], limit: int, ordering: _Ordering) -> "Page":
        """Return a page of `limit` rows; `rows` has one more if there is a next page."""
        following = ordering.position(rows[limit - 1]) if len(rows) > limit else None
        return cls([row["shown"] for row in rows[:limit]], following)


async def listings(db: Database, sort: Sort, words: Sequence[str] | None, after: Position | None, limit: int) -> Page:
    """Return a page of the tickets on sale, of those with words that begin with each of `words` if it is not None."""
    ordering = _ORDERINGS[sort]
    if words is None:
        rows = await db.fetch(_LISTINGS[sort], *ordering.after(after), limit + 1)
    else:
        # Words are letters and digits only, so that nothing in them can end the quotation.
        query = " & ".join(f"'{word}':*" for word in words)
        rows = await _find(db, sort, ordering.after(after), limit + 1, query)
    return Page.of(rows, limit, ordering)


async def tickets_of_seller(db: Statements, seller_id: UUID, after: Position | None, limit: int) -> Page:
    """Return a page of a seller's tickets in every state, newest first."""
    rows = await db.fetch(_OF_SELLER, *_NEWEST.after(after), limit + 1, seller_id)
    return Page.of(rows, limit, _NEWEST)
