"""Following another service's aggregate: its first event first, then only news."""

from uuid import UUID

from admitone.kernel.database import Transaction
from admitone.kernel.inbox import MissingEvents

_BEGIN = "INSERT INTO followed (aggregate, version) VALUES ($1, 0) ON CONFLICT DO NOTHING RETURNING true"
_ADVANCE = """
WITH known AS (SELECT version FROM followed WHERE aggregate = $1),
advanced AS (UPDATE followed SET version = $2 WHERE aggregate = $1 AND version < $2 RETURNING true AS is_news)
SELECT (SELECT version FROM known) AS known, coalesce((SELECT is_news FROM advanced), false) AS is_news
"""
_END = """
INSERT INTO followed (aggregate, version) VALUES ($1, $2)
ON CONFLICT (aggregate) DO UPDATE SET version = excluded.version WHERE followed.version < excluded.version
RETURNING true
"""


async def is_news(tx: Transaction, producer: str, aggregate: UUID, version: int) -> bool:
    """Note that the aggregate reached `version`; False when this service has seen that version or a later one.

    Version 0 makes the aggregate known; later versions may skip the ones this service does not listen to, because
    each event carries the whole state it speaks of. Raises MissingEvents while version 0 has not come.
    """
    if version == 0:
        return bool(await tx.fetchval(_BEGIN, aggregate))
    row = await tx.fetchrow(_ADVANCE, aggregate, version)
    assert row is not None
    if row["known"] is None:
        raise MissingEvents(producer, aggregate)
    return bool(row["is_news"])


async def is_last_news(tx: Transaction, aggregate: UUID, version: int) -> bool:
    """Note that the aggregate ended at `version`; False when this service has seen that version or a later one.

    An end needs no beginning: a version 0 that comes afterwards is no news.
    """
    return bool(await tx.fetchval(_END, aggregate, version))


async def is_known(tx: Transaction, aggregate: UUID) -> bool:
    """Whether any event of the aggregate was noted; notes nothing itself."""
    return bool(await tx.fetchval("SELECT true FROM followed WHERE aggregate = $1", aggregate))
