"""What the running replicas of a service subscribe to: those of two releases share one consumer on the bus."""

from collections.abc import Sequence
from typing import Final

from admitone.kernel.database.pool import Statements

_SUBSCRIBE: Final = """
INSERT INTO subscription (subject) SELECT unnest($1::text[]) AS subject ORDER BY subject
ON CONFLICT (subject) DO UPDATE SET wanted_at = instant()
"""
_SUBSCRIBED: Final = """
SELECT subject FROM subscription
WHERE starts_with(subject, $1) AND wanted_at > instant() - make_interval(secs => $2) ORDER BY subject
"""


async def announce(db: Statements, subjects: Sequence[str]) -> None:
    """Record that a replica wants these subjects."""
    await db.execute(_SUBSCRIBE, subjects)


async def announced(db: Statements, producer: str, counts_seconds: float) -> list[str]:
    """Return all subjects of a producer that replicas wanted in so many seconds."""
    rows = await db.fetch(_SUBSCRIBED, f"events.{producer}.", counts_seconds)
    return [row["subject"] for row in rows]
