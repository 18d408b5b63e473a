"""What expiration keeps: deadlines, and when each rings next."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from admitone.events import OrderAwaitingPayment, OrderCancelled, OrderCreated
from admitone.kernel.database.pool import Database, Transaction, columns

# It rings again until orders tells that the order is over: after 1, 2, 4 … 60 seconds.
_RING: Final = """
UPDATE deadline
SET rings = rings + 1, next_ring_at = instant() + make_interval(secs => least(power(2, least(rings, 6)), 60))
WHERE order_id IN (
    SELECT order_id FROM deadline WHERE next_ring_at <= instant() ORDER BY next_ring_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
RETURNING order_id
"""

_SET: Final = """
WITH told AS (
    SELECT * FROM unnest($1::uuid[], $2::integer[], $3::timestamptz[]) AS told (order_id, version, expires_at)
), begun AS (
    INSERT INTO aggregate_version (aggregate, version) SELECT order_id, version FROM told ORDER BY order_id
    ON CONFLICT DO NOTHING RETURNING aggregate
)
INSERT INTO deadline (order_id, expires_at, next_ring_at)
SELECT order_id, expires_at, expires_at FROM told JOIN begun ON begun.aggregate = told.order_id
ON CONFLICT DO NOTHING
"""
_DROP: Final = """
WITH settled AS (
    UPDATE aggregate_version SET version = told.version
    FROM unnest($1::uuid[], $2::integer[]) AS told (order_id, version)
    WHERE aggregate_version.aggregate = told.order_id AND aggregate_version.version < told.version
    RETURNING aggregate_version.aggregate
), dropped AS (
    DELETE FROM deadline USING settled WHERE deadline.order_id = settled.aggregate
)
SELECT aggregate FROM settled
"""


async def set_deadlines(tx: Transaction, orders: Sequence[OrderCreated]) -> None:
    """Begin to follow orders that were not heard of before, and set their alarms."""
    await tx.execute(_SET, *columns(orders, "id", "version", "expires_at"))


async def drop_deadlines(tx: Transaction, orders: Sequence[OrderAwaitingPayment | OrderCancelled]) -> list[UUID]:
    """Drop the alarms of orders whose version is news; return these orders."""
    rows = await tx.fetch(_DROP, *columns(orders, "id", "version"))
    return [row["aggregate"] for row in rows]


async def ring_due(tx: Transaction, deadlines_max: int) -> list[UUID]:
    """Return orders whose alarm is due, earliest first, and set each one's next ring."""
    return [row["order_id"] for row in await tx.fetch(_RING, deadlines_max)]


async def seconds_to_next(db: Database) -> float | None:
    """Return how long it is until the next alarm, by the database's clock; None while there is none."""
    seconds = await db.fetchval("SELECT extract(epoch FROM min(next_ring_at) - instant()) FROM deadline")
    return None if seconds is None else float(seconds)


async def seconds_overdue(db: Database) -> float:
    """Return how late the next alarm is by now; 0 while none is due."""
    return max(0.0, -(await seconds_to_next(db) or 0.0))
