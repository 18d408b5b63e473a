"""Recovery of a database that was restored to an earlier time.

Its outbox ends at that time, but the service's own stream has what was published since. Those events return to the
outbox, and the aggregates are rebuilt from them. What the service had consumed since arrives again, because its
consumers begin again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg
import msgspec

from admitone.kernel.database.pool import UNREACHABLE, Database, Transaction, affected_rows
from admitone.kernel.errors import Unavailable
from admitone.kernel.messaging import bus as buses
from admitone.kernel.messaging.bus import OUTBOX_RETENTION_SECONDS, Bus, StoredMessage
from admitone.kernel.messaging.event import Envelope, Event, Undecodable, UnknownEvent, read_envelope, unwrap
from admitone.kernel.messaging.outbox import without_relay

log = logging.getLogger(__name__)

E = TypeVar("E", bound=Event)

_CHECK_AGAIN_SECONDS: Final = 1.0
# Less than the retention of the outbox: a younger event is missing only in an outbox of an earlier time.
_RECENT_SECONDS: Final = float(OUTBOX_RETENTION_SECONDS - 24 * 3600)

_IS_UNKNOWN: Final = """
SELECT $3 > instant() - make_interval(secs => $4) AND NOT EXISTS (SELECT FROM outbox WHERE aggregate = $1 AND id = $2)
"""
_LAST_PUBLISHED: Final = """
SELECT stream_sequence, id FROM outbox WHERE stream_sequence IS NOT NULL ORDER BY stream_sequence DESC LIMIT 1
"""
_ACKNOWLEDGE: Final = """
UPDATE outbox SET stream_sequence = $3, copies = greatest(copies, $4) WHERE aggregate = $1 AND id = $2
"""
# A snapshot repeats a version that the outbox has, or must not have.
_INSERT: Final = """
INSERT INTO outbox (id, type, aggregate, version, data, traceparent, recorded_at, stream_sequence, copies)
SELECT $1, $2, $3, CASE WHEN EXISTS (SELECT FROM outbox WHERE aggregate = $3 AND version = $4) THEN NULL ELSE $4 END,
    $5, $6, $7, $8, $9
"""


class DatabaseBehind(Exception):
    """The database lacks events that its service has published: it was restored to an earlier time"""

    def __init__(self, service: str) -> None:
        super().__init__(
            f"The database of {service} lacks events that {service} has published: it was restored to an earlier time."
            f" Stop {service} everywhere, run `admitone recover {service}`, and start it again."
        )


class CannotRebuild(Exception):
    """What an event changed cannot be rebuilt now; it may be possible after other events"""


Rebuild = Callable[[Transaction, E, datetime], Awaitable[None]]
"""Makes the change that an event reports, once: a change that was made before is left as it is.

The time is that of the transaction which published the event. Raises CannotRebuild, or a violation of a constraint, if
the database is not in a state that the change follows.
"""


class LostEvent(msgspec.Struct, frozen=True):
    """An event whose change could not be rebuilt."""

    type: str
    aggregate: UUID
    reason: str


class Recovery(msgspec.Struct):
    """How many events returned to the outbox, and what could not be rebuilt."""

    events: int = 0
    lost: list[LostEvent] = []


def is_next_version(event: Event, have_version: int) -> bool:
    """Whether an event is the next change of an aggregate at a version (-1: none); False if it has that change.

    Raises CannotRebuild if changes in between are missing.
    """
    version = event.aggregate_version
    assert version is not None, f"{type(event).__name__} has no version"
    if version > have_version + 1:
        raise CannotRebuild(f"version {have_version + 1} is missing")
    return version == have_version + 1


# Before anything is published or consumed


async def refuse_if_behind(service: str, database: Database, bus: Bus) -> None:
    """Wait for the bus; raises DatabaseBehind if the stream has a recent event that the outbox lacks.

    An outbox that the stream lacks is usual: the bus was lost or is new, and the relay publishes again.
    """
    await bus.ready()
    while True:
        try:
            if await _is_behind(database, bus):
                raise DatabaseBehind(service)
        except (Unavailable, *buses.UNREACHABLE, *UNREACHABLE) as error:
            log.warning("the stream cannot be read yet", extra={"service": service, "error": repr(error)})
            await asyncio.sleep(_CHECK_AGAIN_SECONDS)
        else:
            return


async def _is_behind(database: Database, bus: Bus) -> bool:
    last = await bus.stored()
    if last is None:
        return False
    try:
        envelope = read_envelope(last.data)
    except Undecodable:
        return False
    return bool(await database.fetchval(_IS_UNKNOWN, envelope.subject, envelope.id, envelope.time, _RECENT_SECONDS))


# Recovering


async def recover(
    database: Database, bus: Bus, producers: Sequence[str], rebuilds: Mapping[type[Event], Rebuild[Any]]
) -> Recovery:
    """Return to the outbox what was published since, rebuild the aggregates, and let the consumers begin again.

    Nothing is published. Raises ServiceRuns if the service was not stopped. Interrupted, it changes no data and is run
    again.
    """
    recovery = Recovery()
    async with without_relay(database):
        # First: a service that starts after an interruption would otherwise go on without what it had consumed.
        for producer in producers:
            await bus.delete_consumer(producer)
        # One transaction: after a part of the events, nothing would show which of those before had to wait.
        async with database.transaction() as tx:
            await tx.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            messages = _stored_above(bus, await _known_until(tx, bus))
            waiting = [each async for each in messages if not await _restore(tx, each, rebuilds, recovery)]
            while waiting:
                left = [each for each in waiting if not await _restore(tx, each, rebuilds, recovery)]
                if len(left) == len(waiting):
                    for each in left:
                        await _restore(tx, each, rebuilds, recovery, gives_up=True)
                    break
                waiting = left
    return recovery


async def _known_until(tx: Transaction, bus: Bus) -> int:
    """Return the sequence up to which the outbox has the stream; 0 if the stream was created again since."""
    row = await tx.fetchrow(_LAST_PUBLISHED)
    if row is None:
        return 0
    message = await bus.stored(row["stream_sequence"])
    if message is None or message.sequence != row["stream_sequence"]:
        return 0
    try:
        is_same = read_envelope(message.data).id == row["id"]
    except Undecodable:
        is_same = False
    return message.sequence if is_same else 0


async def _stored_above(bus: Bus, sequence: int) -> AsyncIterator[StoredMessage]:
    while (message := await bus.stored(sequence + 1)) is not None:
        yield message
        sequence = message.sequence


async def _restore(
    tx: Transaction,
    message: StoredMessage,
    rebuilds: Mapping[type[Event], Rebuild[Any]],
    recovery: Recovery,
    *,
    gives_up: bool = False,
) -> bool:
    """Restore what a message reports; False if that must wait for others.

    With `gives_up` it does not: what cannot be rebuilt is only in the outbox afterwards, without a version.
    """
    try:
        envelope = read_envelope(message.data)
    except Undecodable as reason:
        log.warning("a message of the stream is not an event", extra={"error": str(reason)})
        return True
    copies = _copies(message)
    known = await tx.execute(_ACKNOWLEDGE, envelope.subject, envelope.id, message.sequence, copies)
    if affected_rows(known):
        return True
    version = None
    try:
        version = await _rebuild(tx, message, envelope.time, rebuilds)
    except CannotRebuild as reason:
        if not gives_up:
            return False
        recovery.lost.append(LostEvent(envelope.type, envelope.subject, str(reason)))
    await _insert(tx, envelope, version, message.sequence, copies)
    recovery.events += 1
    return True


async def _rebuild(
    tx: Transaction, message: StoredMessage, recorded_at: datetime, rebuilds: Mapping[type[Event], Rebuild[Any]]
) -> int | None:
    """Make the change that an event reports; return the version that it has in the outbox."""
    try:
        _, event = unwrap(message.data)
    except UnknownEvent as reason:
        raise CannotRebuild(f"this release cannot read it: {reason}") from reason
    if (rebuild := rebuilds.get(type(event))) is not None:
        try:
            async with tx.connection() as connection, connection.transaction():
                await rebuild(tx, event, recorded_at)
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError) as error:
            raise CannotRebuild(str(error)) from error
    return None if event.is_snapshot else event.aggregate_version


async def _insert(tx: Transaction, envelope: Envelope, version: int | None, sequence: int, copies: int) -> None:
    await tx.execute(
        _INSERT,
        envelope.id,
        envelope.type,
        envelope.subject,
        version,
        bytes(envelope.data).decode(),
        envelope.traceparent or None,
        envelope.time,
        sequence,
        copies,
    )


def _copies(message: StoredMessage) -> int:
    """Return how often an event had been published before, which the relay adds to its message id."""
    copies = message.message_id.partition(".")[2]
    return int(copies) if copies.isdigit() else 0
