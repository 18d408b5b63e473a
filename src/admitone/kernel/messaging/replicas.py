"""Replicas of other services' aggregates: the version each has reached here, and waiting for one to arrive.

The table `aggregate_version` has the versions of aggregates of which a service keeps nothing else, and of those whose
event an operator dropped: the next event does not wait for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, TypeVar
from uuid import UUID

from admitone.kernel import clock
from admitone.kernel.database.pool import Transaction
from admitone.kernel.messaging.event import Event
from admitone.kernel.messaging.handlers import MissingEvents

log = logging.getLogger(__name__)

T = TypeVar("T")

_VERSIONS: Final = "SELECT aggregate, version FROM aggregate_version WHERE aggregate = ANY($1::uuid[])"
# Rows are locked in one order everywhere, so that two batches cannot deadlock.
_SAVE_VERSIONS: Final = """
INSERT INTO aggregate_version (aggregate, version)
SELECT * FROM unnest($1::uuid[], $2::integer[]) AS reached (aggregate, version) ORDER BY aggregate
ON CONFLICT (aggregate) DO UPDATE SET version = excluded.version WHERE aggregate_version.version < excluded.version
RETURNING aggregate
"""

_MARK_KNOWN: Final = "INSERT INTO aggregate_version (aggregate, version) VALUES ($1, 0) ON CONFLICT DO NOTHING"

# An event usually arrives within ten milliseconds, later under load.
_RECENT_SECONDS: Final = 30.0
_WAIT_SECONDS: Final = 2.0
_FIRST_PAUSE_SECONDS: Final = 0.01
_PAUSE_SECONDS_MAX: Final = 0.1


def is_early(event: Event, have_version: int) -> bool:
    """Whether events between a replica's version (-1: none) and this event have not been applied."""
    version = event.aggregate_version
    assert version is not None, f"{type(event).__name__} has no version"
    return version > have_version + 1


def is_next(event: Event, have_version: int) -> bool:
    """Whether an event is the next one for a replica at `have_version` (-1: none); False if it was applied before.

    A snapshot follows every version up to its own. Raises MissingEvents if events in between have not arrived.
    """
    version = event.aggregate_version
    assert version is not None, f"{type(event).__name__} has no version"
    if event.is_snapshot:
        return version >= have_version
    if is_early(event, have_version):
        raise MissingEvents(event.producer, event.aggregate, have_version)
    if version <= have_version:
        log.info("event was applied before", extra={"aggregate": event.aggregate, "version": version})
    return version == have_version + 1


class Versions:
    """The versions in `aggregate_version` of the aggregates that a batch is about."""

    def __init__(self, known: dict[UUID, int]) -> None:
        self._known = known
        self._reached: dict[UUID, int] = {}

    def __contains__(self, aggregate: UUID) -> bool:
        return aggregate in self._known

    def of(self, aggregate: UUID) -> int:
        """Return the version that an aggregate has reached; -1 if it is unknown."""
        return self._known.get(aggregate, -1)

    def advance(self, event: Event) -> bool:
        """Record an event's version; False if its aggregate had reached it before. Versions may be skipped."""
        version = event.aggregate_version
        assert version is not None, f"{type(event).__name__} has no version"
        if self.of(event.aggregate) >= version:
            log.info("event was applied before", extra={"aggregate": event.aggregate, "version": version})
            return False
        self._known[event.aggregate] = self._reached[event.aggregate] = version
        return True

    async def save(self, tx: Transaction) -> set[UUID]:
        """Save what was recorded; return the aggregates that advanced.

        An aggregate is left out if a concurrent transaction advanced it first: a version never goes back.
        """
        if not self._reached:
            return set()
        rows = await tx.fetch(_SAVE_VERSIONS, list(self._reached), list(self._reached.values()))
        return {row["aggregate"] for row in rows}


async def load_versions(tx: Transaction, aggregates: Sequence[UUID]) -> Versions:
    """Return the version that each aggregate has reached in this service."""
    if not aggregates:
        return Versions({})
    rows = await tx.fetch(_VERSIONS, aggregates)
    return Versions({row["aggregate"]: row["version"] for row in rows})


async def mark_known(tx: Transaction, aggregate: UUID) -> None:
    """Record that an aggregate's first event was consumed; a version that was reached since stays."""
    await tx.execute(_MARK_KNOWN, aggregate)


def is_recent(made: UUID) -> bool:
    """Whether an id was generated in the last seconds, by the time it carries (RFC 9562, UUIDv7)."""
    if made.version != 7:
        return False
    return abs(clock.now().timestamp() - (made.int >> 80) / 1000) < _RECENT_SECONDS


async def wait_for_replica(
    find: Callable[[], Awaitable[T]],
    made: UUID,
    *,
    is_missing: Callable[[T], bool],
    waiting: AbstractContextManager[bool],
) -> T:
    """Return what `find` returns; while that is missing and the id is recent, try again for up to two seconds.

    An aggregate created a moment ago in another service may not have arrived here yet. `waiting` decides whether the
    request may wait: see `Request.waiting`.
    """
    found = await find()
    if not is_missing(found) or not is_recent(made):
        return found
    with waiting as may_wait:
        deadline = clock.monotonic_seconds() + _WAIT_SECONDS
        pause_seconds = _FIRST_PAUSE_SECONDS
        while may_wait and is_missing(found) and is_recent(made) and clock.monotonic_seconds() < deadline:
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _PAUSE_SECONDS_MAX)
            found = await find()
    return found
