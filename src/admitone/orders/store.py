"""The statements of orders: orders, the replicas of tickets, and the one that reserves."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec
from asyncpg import UniqueViolationError
from msgspec.structs import asdict, astuple

from admitone.events import Offer
from admitone.kernel import ids
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
from admitone.orders.model import Order, TicketReplica

# Each field of an offer is a column of the same name, in the table of orders and in that of tickets.
_OFFER: Final = column_list(Offer)
_OFFER_PARAMETERS: Final = ", ".join(f"${8 + place}" for place in range(len(Offer.__struct_fields__)))

# Reserving


class Reservation(msgspec.Struct, frozen=True):
    """A request to hold a ticket for a buyer; `key` and `request_hash` belong to its Idempotency-Key."""

    ticket_id: UUID
    buyer_id: UUID
    traceparent: str | None
    key: str | None = None
    request_hash: bytes | None = None


class ReservationResult(msgspec.Struct, frozen=True):
    """The outcome of a reservation; `body` is the order's JSON if there is one."""

    outcome: Literal["held", "repeated", "key reused", "no such ticket", "own ticket", "already reserved"]
    body: str | None


# The whole decision in one statement, for any number of reservations, each with its own outcome. It is the one place
# where SQL repeats rules of the model, and the tests compare what both produce.
#
#   request     the reservations; `stored` are those whose key has a stored response
#   considered  joins the replica of the ticket
#   expired     cancels an overdue order for the ticket, so that a late signal of its deadline keeps no ticket locked
#   held        inserts the order; the partial unique index decides between concurrent buyers
#   published   writes the events of both to the outbox
#
# `held` reads `expired` (count(*) >= 0) only to run after it: the unique index then ignores the cancelled order. Rows
# are inserted by ticket id, then responses by key, so that two such statements cannot deadlock. A key that
# another request has just used fails the whole statement, so that it holds nothing.
_RESERVE: Final = f"""
WITH request AS (
    SELECT *
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::bytea[])
    WITH ORDINALITY
    AS request (order_id, ticket_id, buyer_id, created_id, cancelled_id, traceparent, key, request_hash, ordinal)
), stored AS (
    SELECT request.ordinal, idempotent_response.request_hash = request.request_hash AS is_same, idempotent_response.body
    FROM request JOIN idempotent_response
        ON idempotent_response.user_id = request.buyer_id AND idempotent_response.key = request.key
), considered AS (
    SELECT request.*, ticket.version, ticket.revision, ticket.seller_id, {_OFFER}
    FROM request JOIN ticket ON ticket.id = request.ticket_id
    WHERE request.ordinal NOT IN (SELECT ordinal FROM stored)
), expired AS (
    UPDATE orders SET status = 'cancelled', version = orders.version + 1, cancel_reason = 'expired'
    FROM considered
    WHERE orders.ticket_id = considered.ticket_id AND orders.status = 'created' AND orders.expires_at <= instant()
      AND $11 AND considered.seller_id <> considered.buyer_id
    RETURNING considered.cancelled_id, considered.traceparent, orders.id, orders.version,
        order_cancelled_event(orders) AS event
), held AS (
    INSERT INTO orders (id, buyer_id, ticket_id, ticket_version, ticket_revision, created_at, expires_at, {_OFFER})
    SELECT order_id, buyer_id, ticket_id, version, revision, now, now + make_interval(secs => $9), {_OFFER}
    FROM considered, date_trunc('milliseconds', instant()) AS now
    WHERE seller_id <> buyer_id AND (SELECT count(*) FROM expired) >= 0
    ORDER BY ticket_id, ordinal
    ON CONFLICT (ticket_id) WHERE status IN ('created', 'awaiting:payment', 'complete') DO NOTHING
    RETURNING id, version, shown_order(orders) AS body, order_created_event(orders) AS event
), reserved AS (
    SELECT held.*, ordinal, created_id, traceparent, buyer_id, key, request_hash
    FROM held JOIN considered ON considered.order_id = held.id
), published AS (
    INSERT INTO outbox (id, type, aggregate, version, data, traceparent)
    SELECT cancelled_id, 'OrderCancelled', id, version, event, traceparent FROM expired
    UNION ALL
    SELECT created_id, 'OrderCreated', id, version, event, traceparent FROM reserved
), responded AS (
    INSERT INTO idempotent_response (user_id, key, request_hash, status, body)
    SELECT buyer_id, key, request_hash, $10, body FROM reserved WHERE key IS NOT NULL ORDER BY buyer_id, key
)
SELECT
    CASE
        WHEN stored.ordinal IS NOT NULL THEN CASE WHEN stored.is_same THEN 'repeated' ELSE 'key reused' END
        WHEN considered.ordinal IS NULL THEN 'no such ticket'
        WHEN considered.seller_id = considered.buyer_id THEN 'own ticket'
        WHEN reserved.ordinal IS NULL THEN 'already reserved'
        ELSE 'held'
    END AS outcome,
    coalesce(reserved.body, stored.body) AS body
FROM request
LEFT JOIN stored USING (ordinal) LEFT JOIN considered USING (ordinal) LEFT JOIN reserved USING (ordinal)
ORDER BY request.ordinal
"""  # noqa: S608


async def reserve_tickets(
    db: Database,
    reservations: Sequence[Reservation],
    hold_seconds: int,
    response_status: int,
    *,
    may_evict: bool = True,
) -> list[ReservationResult]:
    """Hold each ticket for its buyer if it is free; the results are in the order of the reservations.

    Unless `may_evict`, an overdue order keeps its ticket: the event that it was paid in time may not have arrived.
    Raises UniqueViolationError if several have the same key and none of them is stored yet: then run each alone.
    """
    try:
        rows = await _reserve(db, reservations, hold_seconds, response_status, may_evict=may_evict)
    except UniqueViolationError:
        if len(reservations) > 1:
            raise
        # A concurrent request with the same key was faster, and its response is stored now.
        rows = await _reserve(db, reservations, hold_seconds, response_status, may_evict=may_evict)
    db.published()
    return [ReservationResult(row["outcome"], row["body"]) for row in rows]


async def _reserve(
    db: Database, reservations: Sequence[Reservation], hold_seconds: int, response_status: int, *, may_evict: bool
) -> list[Row]:
    return await db.fetch(
        _RESERVE,
        [ids.new_id() for _ in reservations],
        *columns(reservations, "ticket_id", "buyer_id"),
        [ids.new_id() for _ in reservations],
        [ids.new_id() for _ in reservations],
        *columns(reservations, "traceparent", "key", "request_hash"),
        float(hold_seconds),
        response_status,
        may_evict,
    )


# Orders

_ORDER: Final = f"""
id, version, status, buyer_id, ticket_id, ticket_version, ticket_revision, created_at, expires_at, payment_id,
cancel_reason, {_OFFER}
"""
_SHOW: Final = f"SELECT {_ORDER}, instant() AS read_at FROM orders WHERE id = $1"  # noqa: S608
_OF_BUYER: Final = f"""
SELECT {_ORDER}, instant() AS read_at FROM orders
WHERE buyer_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3
"""  # noqa: S608
# Rows are locked in one order everywhere, so that two batches cannot deadlock.
_FOR_CHANGE: Final = f"SELECT {_ORDER} FROM orders WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE"  # noqa: S608
_OVERDUE: Final = f"""
SELECT {_ORDER} FROM orders WHERE status = 'created' AND expires_at <= instant() - make_interval(secs => $1)
ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
"""  # noqa: S608
_INSERT: Final = f"""
INSERT INTO orders (id, buyer_id, ticket_id, ticket_version, ticket_revision, created_at, expires_at, {_OFFER})
VALUES ($1, $2, $3, $4, $5, date_trunc('milliseconds', $6::timestamptz), $7, {_OFFER_PARAMETERS})
"""  # noqa: S608
_SAVE: Final = """
UPDATE orders SET
    version = changed.version, status = changed.status, payment_id = changed.payment_id,
    cancel_reason = changed.cancel_reason
FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::uuid[], $5::text[])
    AS changed (id, version, status, payment_id, cancel_reason)
WHERE orders.id = changed.id AND orders.version = changed.version - 1
"""


def _order(row: Row) -> Order:
    return from_row(Order, row, offer=from_row(Offer, row))


async def order(db: Statements, order_id: UUID) -> tuple[Order, datetime] | None:
    """Return an order and the time of the reading."""
    row = await db.fetchrow(_SHOW, order_id)
    return None if row is None else (_order(row), row["read_at"])


async def orders_of_buyer(
    db: Statements, buyer_id: UUID, limit: int, before: UUID | None
) -> list[tuple[Order, datetime]]:
    """Return a buyer's orders, newest first, those before the order `before`, with the time of the reading."""
    return [(_order(row), row["read_at"]) for row in await db.fetch(_OF_BUYER, buyer_id, before, limit)]


async def orders_for_change(tx: Transaction, order_ids: Sequence[UUID]) -> dict[UUID, Order]:
    """Return orders by id and lock their rows until the transaction ends."""
    return {row["id"]: _order(row) for row in await tx.fetch(_FOR_CHANGE, order_ids)}


async def order_ids_after(db: Statements, order_id: UUID, limit: int) -> list[UUID]:
    """Return the ids of orders in every status that follow one, in order."""
    rows = await db.fetch("SELECT id FROM orders WHERE id > $1 ORDER BY id LIMIT $2", order_id, limit)
    return [row["id"] for row in rows]


async def overdue_orders(tx: Transaction, grace_seconds: float, limit: int) -> list[Order]:
    """Return unpaid orders that expired `grace_seconds` ago and lock them; rows locked by others are left out."""
    return [_order(row) for row in await tx.fetch(_OVERDUE, grace_seconds, limit)]


async def insert_order(tx: Transaction, order: Order) -> None:
    """Insert an order in its first version, whose reservation is known from its event."""
    fields = (order.id, order.buyer_id, order.ticket_id, order.ticket_version, order.ticket_revision)
    await tx.execute(_INSERT, *fields, order.created_at, order.expires_at, *astuple(order.offer))


async def save_orders(tx: Transaction, changed: Sequence[Order]) -> None:
    """Save the status of orders; each row must have the version before."""
    if changed:
        tag = await tx.execute(_SAVE, *columns(changed, "id", "version", "status", "payment_id", "cancel_reason"))
        assert affected_rows(tag) == len(changed), "an order was changed while it was locked"


async def count_unpaid(db: Statements) -> dict[str, float]:
    """Return the number of orders that can still be paid, under their status.

    Only what an index has is counted: all orders of a busy year take longer than a scrape may.
    """
    return {"created": float(await db.fetchval("SELECT count(*) FROM orders WHERE status = 'created'"))}


async def seconds_overdue(db: Statements) -> float:
    """Return how long ago the most overdue order expired whose ticket is still held; 0 if there is none."""
    seconds = await db.fetchval(
        "SELECT extract(epoch FROM instant() - min(expires_at)) FROM orders "
        "WHERE status = 'created' AND expires_at < instant()"
    )
    return float(seconds or 0)


# Replicas of tickets

_REPLICA: Final = f"id, version, revision, seller_id, status, order_id, {_OFFER}"
_SAVE_TICKETS: Final = f"""
INSERT INTO ticket ({_REPLICA})
SELECT {_REPLICA} FROM json_populate_recordset(NULL::ticket, $1::text::json) ORDER BY id
ON CONFLICT (id) DO UPDATE SET ({_REPLICA}) = ROW({", ".join(f"excluded.{each}" for each in _REPLICA.split(", "))})
WHERE ticket.version <= excluded.version
"""  # noqa: S608


async def tickets(tx: Transaction, ticket_ids: Sequence[UUID]) -> dict[UUID, TicketReplica]:
    """Return the replicas of tickets by id."""
    rows = await tx.fetch(f"SELECT {_REPLICA} FROM ticket WHERE id = ANY($1::uuid[])", ticket_ids)  # noqa: S608
    return {row["id"]: from_row(TicketReplica, row, offer=from_row(Offer, row)) for row in rows}


async def ticket_versions_for_change(tx: Transaction, ticket_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Return the versions of replicas by id and lock their rows until the transaction ends."""
    rows = await tx.fetch(
        "SELECT id, version FROM ticket WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE", ticket_ids
    )
    return {row["id"]: row["version"] for row in rows}


async def save_tickets(tx: Transaction, changed: Sequence[TicketReplica]) -> None:
    """Save new and changed replicas; a row is replaced by a later version, or by the same one, as of a snapshot."""
    if changed:
        rows = [{**asdict(each), **asdict(each.offer)} for each in changed]
        await tx.execute(_SAVE_TICKETS, msgspec.json.encode(rows).decode())
