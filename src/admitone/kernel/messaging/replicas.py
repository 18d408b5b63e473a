"""Replicas of other services' aggregates: the version each has reached here, and waiting for one to arrive."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar
from uuid import UUID

from admitone.kernel import clock
from admitone.kernel.database.pool import Transaction

T = TypeVar("T")

_VERSIONS: Final = "SELECT aggregate, version FROM aggregate_version WHERE aggregate = ANY($1::uuid[])"
# Rows are locked in one order everywhere, so that two batches cannot deadlock.
_SAVE_VERSIONS: Final = """
INSERT INTO aggregate_version (aggregate, version)
SELECT * FROM unnest($1::uuid[], $2::integer[]) AS reached (aggregate, version) ORDER BY aggregate
ON CONFLICT (aggregate) DO UPDATE SET version = excluded.version WHERE aggregate_version.version < excluded.version
"""

# An event usually arrives within ten milliseconds, later under load.
_RECENT_SECONDS: Final = 30.0
_WAIT_SECONDS: Final = 2.0
_FIRST_PAUSE_SECONDS: Final = 0.01
_PAUSE_SECONDS_MAX: Final = 0.1


async def versions(tx: Transaction, aggregates: Sequence[UUID]) -> dict[UUID, int]:
    """Return the version each aggregate has reached in this service; unknown ones are absent."""
    rows = await tx.fetch(_VERSIONS, aggregates)
    return {row["aggregate"]: row["version"] for row in rows}


async def save_versions(tx: Transaction, reached: Mapping[UUID, int]) -> None:
    """Record the version each aggregate has reached; a version never goes back."""
    if reached:
        await tx.execute(_SAVE_VERSIONS, list(reached), list(reached.values()))


def is_recent(made: UUID) -> bool:
    """Whether an id was generated in the last seconds, by the time it carries (RFC 9562, UUIDv7)."""
    if made.version != 7:
        return False
    return abs(clock.now().timestamp() - (made.int >> 80) / 1000) < _RECENT_SECONDS


async def wait_for_replica(find: Callable[[], Awaitable[T]], made: UUID, *, is_missing: Callable[[T], bool]) -> T:
    """Return what `find` returns; while that is missing and the id is recent, try again for up to two seconds.

    An aggregate created a moment ago in another service may not have arrived here yet.
    """
    found = await find()
    deadline = clock.monotonic_seconds() + _WAIT_SECONDS
    pause_seconds = _FIRST_PAUSE_SECONDS
    while is_missing(found) and is_recent(made) and clock.monotonic_seconds() < deadline:
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 2, _PAUSE_SECONDS_MAX)
        found = await find()
    return found
