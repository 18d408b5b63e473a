"""What expiration keeps: deadlines, and when each rings next."""

from datetime import datetime
from typing import Final
from uuid import UUID

from admitone.kernel.database import Database, Transaction

# It rings again until orders tells that the order is over: after 1, 2, 4 … 60 seconds.
_RING: Final = """
UPDATE deadline
SET rings = rings + 1, next_ring_at = instant() + make_interval(secs => least(power(2, least(rings, 6)), 60))
WHERE order_id IN (
    SELECT order_id FROM deadline WHERE next_ring_at <= instant() ORDER BY next_ring_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
RETURNING order_id
"""


async def set_deadline(tx: Transaction, order_id: UUID, expires_at: datetime) -> None:
    await tx.execute(
        "INSERT INTO deadline (order_id, expires_at, next_ring_at) VALUES ($1, $2, $2) ON CONFLICT DO NOTHING",
        order_id,
        expires_at,
    )


async def drop_deadline(tx: Transaction, order_id: UUID) -> None:
    await tx.execute("DELETE FROM deadline WHERE order_id = $1", order_id)


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
