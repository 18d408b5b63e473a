"""What orders keeps: orders, and a replica of every ticket's price and state."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec

from admitone.events import TicketCreated, TicketUpdated
from admitone.kernel import ids
from admitone.kernel.database.pool import Database, Row, Statements, Transaction, affected_rows, columns
from admitone.orders.model import Order

Outcome = Literal["made", "repeated", "key reused", "no such ticket", "own ticket", "reserved"]


class Reservation(msgspec.Struct, frozen=True):
    """One buyer's wish to hold one ticket; `key` and `request_hash` belong to its Idempotency-Key."""

    ticket_id: UUID
    user_id: UUID
    traceparent: str | None
    key: str | None = None
    request_hash: bytes | None = None


class Reserved(msgspec.Struct, frozen=True):
    """What became of a reservation; `body` is the order's JSON when there is one."""

    outcome: Outcome
    body: str | None


# The whole decision in one statement, for any number of reservations at once, each with its own outcome:
#
#   asked       what came in; `recalled` is what the same key was answered before
#   considered  joins the ticket replica: price, seller
#   evicted     ends a hold on that ticket whose deadline has passed, so that a dead alarm clock frees nothing late
#   made        inserts the order; the partial unique index is the last word between concurrent buyers
#   told        writes the events of both to the outbox (json_strip_nulls also leaves out the spaces)
#
# `made` reads `evicted` (count(*) >= 0) only to run after it: the unique check then sees the evicted row as gone.
# Rows go in by ticket id, so that two such statements never wait for each other in a circle.
_RESERVE: Final = """
WITH asked AS (
    SELECT *
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::bytea[])
    WITH ORDINALITY
    AS asked (order_id, ticket_id, user_id, event_id, eviction_id, traceparent, key, request_hash, place)
), recalled AS (
    SELECT asked.place, idempotent_response.request_hash = asked.request_hash AS is_same, idempotent_response.body
    FROM asked JOIN idempotent_response
        ON idempotent_response.user_id = asked.user_id AND idempotent_response.key = asked.key
), considered AS (
    SELECT asked.*, ticket.version, ticket.title, ticket.price_cents, ticket.currency, ticket.seller_id
    FROM asked JOIN ticket ON ticket.id = asked.ticket_id
    WHERE asked.place NOT IN (SELECT place FROM recalled)
), evicted AS (
    UPDATE orders SET status = 'cancelled', version = orders.version + 1, cancel_reason = 'expired'
    FROM considered
    WHERE orders.ticket_id = considered.ticket_id AND orders.status = 'created' AND orders.expires_at <= instant()
      AND considered.seller_id <> considered.user_id
    RETURNING orders.id, orders.version, orders.user_id, orders.ticket_id,
        considered.eviction_id, considered.traceparent
), made AS (
    INSERT INTO orders (id, user_id, ticket_id, ticket_version, title, price_cents, currency, created_at, expires_at)
    SELECT order_id, user_id, ticket_id, version, title, price_cents, currency, now, now + make_interval(secs => $9)
    FROM considered, date_trunc('milliseconds', instant()) AS now
    WHERE seller_id <> user_id AND (SELECT count(*) FROM evicted) >= 0
    ORDER BY ticket_id, place
    ON CONFLICT (ticket_id) WHERE status IN ('created', 'awaiting:payment', 'complete') DO NOTHING
    RETURNING *
), bodies AS (
    SELECT considered.place, considered.event_id, considered.traceparent, considered.key, considered.request_hash,
        made.*,
        json_strip_nulls(json_build_object(
            'id', made.id, 'userId', made.user_id, 'status', made.status,
            'createdAt', json_time(made.created_at), 'expiresAt', json_time(made.expires_at),
            'now', json_time(made.created_at), 'version', made.version,
            'ticket', json_build_object(
                'id', made.ticket_id, 'title', made.title, 'price', round(made.price_cents / 100.0, 2),
                'currency', made.currency, 'version', made.ticket_version)
        ))::text AS body
    FROM made JOIN considered ON considered.order_id = made.id
), told AS (
    INSERT INTO outbox (id, type, aggregate, version, data, traceparent)
    SELECT eviction_id, 'OrderCancelled', id, version,
        json_strip_nulls(json_build_object(
            'id', id, 'version', version, 'userId', user_id, 'ticketId', ticket_id, 'reason', 'expired'))::text,
        traceparent
    FROM evicted
    UNION ALL
    SELECT event_id, 'OrderCreated', id, version,
        json_strip_nulls(json_build_object(
            'id', id, 'version', version, 'status', status, 'userId', user_id, 'expiresAt', json_time(expires_at),
            'ticket', json_build_object(
                'id', ticket_id, 'version', ticket_version, 'priceCents', price_cents, 'currency', currency)
        ))::text,
        traceparent
    FROM bodies
), remembered AS (
    INSERT INTO idempotent_response (user_id, key, request_hash, status, body)
    SELECT user_id, key, request_hash, $10, body FROM bodies WHERE key IS NOT NULL
    ON CONFLICT DO NOTHING
)
SELECT
    CASE
        WHEN recalled.place IS NOT NULL THEN CASE WHEN recalled.is_same THEN 'repeated' ELSE 'key reused' END
        WHEN considered.place IS NULL THEN 'no such ticket'
        WHEN considered.seller_id = considered.user_id THEN 'own ticket'
        WHEN bodies.place IS NULL THEN 'reserved'
        ELSE 'made'
    END AS outcome,
    coalesce(bodies.body, recalled.body) AS body
FROM asked
LEFT JOIN recalled USING (place) LEFT JOIN considered USING (place) LEFT JOIN bodies USING (place)
ORDER BY asked.place
"""


async def reserve_tickets(
    db: Database, reservations: Sequence[Reservation], window_seconds: int, answer_status: int
) -> list[Reserved]:
    """Hold each ticket for its buyer, if it is free; one statement, one round trip, outcomes in the same order."""
    rows = await db.fetch(
        _RESERVE,
        [ids.new_id() for _ in reservations],
        *columns(reservations, "ticket_id", "user_id"),
        [ids.new_id() for _ in reservations],
        [ids.new_id() for _ in reservations],
        *columns(reservations, "traceparent", "key", "request_hash"),
        float(window_seconds),
        answer_status,
    )
    db.published()
    return [Reserved(row["outcome"], row["body"]) for row in rows]


_COLUMNS: Final = """id, version, status, user_id, ticket_id, ticket_version, title, price_cents, currency,
    created_at, expires_at, payment_id, cancel_reason"""


def _order(row: Row) -> Order:
    return Order(**dict(row.items()))


def _order_as_read(row: Row) -> tuple[Order, datetime]:
    fields = dict(row.items())
    read_at: datetime = fields.pop("read_at")
    return Order(**fields), read_at


async def order(db: Statements, order_id: UUID) -> tuple[Order, datetime] | None:
    """Return an order and the instant it was read at."""
    row = await db.fetchrow(f"SELECT {_COLUMNS}, instant() AS read_at FROM orders WHERE id = $1", order_id)  # noqa: S608
    if row is None:
        return None
    return _order_as_read(row)


async def order_for_change(tx: Transaction, order_id: UUID) -> Order | None:
    """Return an order and lock its row until the transaction ends."""
    row = await tx.fetchrow(f"SELECT {_COLUMNS} FROM orders WHERE id = $1 FOR UPDATE", order_id)  # noqa: S608
    return None if row is None else _order(row)


async def orders_of(db: Statements, user_id: UUID, limit: int, before: UUID | None) -> list[tuple[Order, datetime]]:
    """Return a buyer's orders, newest first, those before the order `before`, with the instant of the reading."""
    rows = await db.fetch(
        f"SELECT {_COLUMNS}, instant() AS read_at FROM orders "  # noqa: S608
        "WHERE user_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        user_id,
        before,
        limit,
    )
    return [_order_as_read(row) for row in rows]


async def save(tx: Transaction, changed: Order) -> None:
    """Write an order's new state and tell it; the row must still be at the version before."""
    tag = await tx.execute(
        "UPDATE orders SET version = $2, status = $3, payment_id = $4, cancel_reason = $5 "
        "WHERE id = $1 AND version = $2 - 1",
        changed.id,
        changed.version,
        changed.status,
        changed.payment_id,
        changed.cancel_reason,
    )
    assert affected_rows(tag) == 1, f"order {changed.id} was changed by somebody else while it was locked"
    tx.publish(changed.fact())


async def overdue_orders(tx: Transaction, grace_seconds: float, limit: int) -> list[Order]:
    """Return unpaid orders whose deadline passed `grace_seconds` ago, locked; rows others have locked are left out."""
    rows = await tx.fetch(
        f"SELECT {_COLUMNS} FROM orders "  # noqa: S608
        "WHERE status = 'created' AND expires_at <= instant() - make_interval(secs => $1) "
        "ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED",
        grace_seconds,
        limit,
    )
    return [_order(row) for row in rows]


async def add_ticket(tx: Transaction, told: TicketCreated) -> None:
    """Begin a ticket's replica; one that exists stays."""
    await tx.execute(
        "INSERT INTO ticket (id, version, title, price_cents, currency, seller_id, status, order_id) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
        told.id,
        told.version,
        told.title,
        told.price_cents,
        told.currency,
        told.user_id,
        told.status,
        told.order_id,
    )


_ADVANCE_TICKETS: Final = """
UPDATE ticket SET version = told.version, title = told.title, price_cents = told.price_cents,
    currency = told.currency, status = told.status, order_id = told.order_id
FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::uuid[])
AS told (id, version, title, price_cents, currency, status, order_id)
WHERE ticket.id = told.id AND ticket.version = told.version - 1
RETURNING ticket.id
"""


async def advance_tickets(tx: Transaction, told: Sequence[TicketUpdated]) -> list[UUID]:
    """Apply the next version of each ticket, and only the next; return the tickets whose replica was there."""
    rows = await tx.fetch(
        _ADVANCE_TICKETS, *columns(told, "id", "version", "title", "price_cents", "currency", "status", "order_id")
    )
    return [row["id"] for row in rows]


class TicketReplica(msgspec.Struct, frozen=True):
    """How far a ticket's replica is, and for which order the ticket is locked."""

    version: int
    order_id: UUID | None


async def ticket(db: Statements, ticket_id: UUID) -> TicketReplica | None:
    row = await db.fetchrow("SELECT version, order_id FROM ticket WHERE id = $1", ticket_id)
    return None if row is None else TicketReplica(row["version"], row["order_id"])


async def count_by_status(db: Statements) -> dict[str, float]:
    """Return how many orders have each status: `created` ones hold a ticket, `complete` ones sold it."""
    rows = await db.fetch("SELECT status, count(*) AS orders FROM orders GROUP BY status")
    return {row["status"]: float(row["orders"]) for row in rows}


async def seconds_overdue(db: Statements) -> float:
    """Return for how long the oldest deadline has passed without its ticket being free again; 0 when none has."""
    seconds = await db.fetchval(
        "SELECT extract(epoch FROM instant() - min(expires_at)) FROM orders "
        "WHERE status = 'created' AND expires_at < instant()"
    )
    return float(seconds or 0)
