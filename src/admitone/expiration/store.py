"""The statements of expiration: deadlines, and when each is signalled next."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from admitone.events import OrderCreated
from admitone.kernel.database.pool import Statements, Transaction, columns

_SET: Final = """
INSERT INTO deadline (order_id, expires_at, next_signal_at)
SELECT order_id, expires_at, expires_at FROM unnest($1::uuid[], $2::timestamptz[]) AS created (order_id, expires_at)
"""
# The signal is repeated after 1, 2, 4 … 60 seconds until the deadline is deleted.
_TAKE_DUE: Final = """
UPDATE deadline
SET signals = signals + 1, next_signal_at = instant() + make_interval(secs => least(power(2, least(signals, 6)), 60))
WHERE order_id IN (
    SELECT order_id FROM deadline WHERE next_signal_at <= instant()
    ORDER BY next_signal_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
RETURNING order_id
"""


async def set_deadlines(tx: Transaction, orders: Sequence[OrderCreated]) -> None:
    """Set the deadlines of orders that have none."""
    if orders:
        await tx.execute(_SET, *columns(orders, "id", "expires_at"))


async def delete_deadlines(tx: Transaction, order_ids: Sequence[UUID]) -> None:
    if order_ids:
        await tx.execute("DELETE FROM deadline WHERE order_id = ANY($1::uuid[])", order_ids)


async def take_due_signals(tx: Transaction, signals_max: int) -> list[UUID]:
    """Return orders whose signal is due, the most overdue ones first, and schedule the next signal of each."""
    return [row["order_id"] for row in await tx.fetch(_TAKE_DUE, signals_max)]


async def seconds_to_next_signal(db: Statements) -> float | None:
    """Return the time until the next signal, by the database's clock; None if there is none."""
    seconds = await db.fetchval("SELECT extract(epoch FROM min(next_signal_at) - instant()) FROM deadline")
    return None if seconds is None else float(seconds)


async def seconds_overdue(db: Statements) -> float:
    """Return how late the next signal is; 0 if none is due."""
    return max(0.0, -(await seconds_to_next_signal(db) or 0.0))
