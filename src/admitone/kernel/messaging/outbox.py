"""The relay: publishes the outbox, and publishes again what the bus lost.

Each database has one relay, elected by an advisory lock; other replicas' relays stand by. The outbox is the source of
truth. Each row records the stream sequence with which the bus acknowledged it, so the relay can tell a complete
stream from one that was deleted, rolled back or lost single messages.

A sequence identifies an event only if the stream never assigns it twice. So every event names the sequence of its
predecessor: a stream that lost its end accepts nothing, not even what the client had buffered for it, until the relay
has compared and knows what to publish again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from admitone.kernel.database.pool import UNREACHABLE, Database, Row, Statements, affected_rows
from admitone.kernel.errors import Unavailable
from admitone.kernel.messaging import bus as buses
from admitone.kernel.messaging.bus import Bus, RepublishRequest, StreamState
from admitone.kernel.messaging.event import event_types, subject_of, wrap
from admitone.kernel.messaging.snapshots import Snapshots, publish_snapshot

log = logging.getLogger(__name__)

_LOCK: Final = 0x0B0C5  # one relay per database
_BATCH: Final = 256
_ACKNOWLEDGED_WITHIN_SECONDS: Final = 5.0
_STANDBY_SECONDS: Final = 1.0
_RESTART_SECONDS: Final = 0.25
_POLL_SECONDS: Final = 0.25
_CHANNEL: Final = "outbox"
# The share of its limit at which a stream is made smaller.
_NEARLY_FULL: Final = 0.75

# Every unpublished row, in insert order; not "rows above the last position", because positions commit out of order
# and a slow transaction's rows would be skipped forever.
_UNPUBLISHED: Final = """
SELECT position, id, type, aggregate, data, traceparent, recorded_at, copies
FROM outbox WHERE stream_sequence IS NULL ORDER BY position LIMIT $1
"""
_ACKNOWLEDGE: Final = """
UPDATE outbox SET stream_sequence = acknowledged.sequence
FROM unnest($1::bigint[], $2::bigint[]) AS acknowledged (position, sequence)
WHERE outbox.position = acknowledged.position
"""
_UNPUBLISH_LOST: Final = """
UPDATE outbox SET stream_sequence = NULL, copies = copies + 1
WHERE stream_sequence > $2 OR stream_sequence < $1 OR stream_sequence = ANY($3::bigint[])
"""
_UNPUBLISH_AGGREGATE: Final = """
UPDATE outbox SET stream_sequence = NULL, copies = copies + 1
WHERE aggregate = $1 AND (version > $2 OR version IS NULL) AND stream_sequence IS NOT NULL
"""
# Whether the outbox lacks an event above a version although the aggregate went on: it is past its retention, or a
# restored database never had it.
_IS_PRUNED: Final = """
SELECT NOT EXISTS (SELECT FROM outbox WHERE aggregate = $1 AND version = $2 + 1)
    AND (NOT EXISTS (SELECT FROM outbox WHERE aggregate = $1 AND version IS NOT NULL)
        OR EXISTS (SELECT FROM outbox WHERE aggregate = $1 AND version > $2 + 1))
"""
# With an event go the earlier ones of its aggregate, of which the stream may have a later copy: no version between
# others is ever missing.
_REMOVE_OLDEST: Final = """
WITH oldest AS (
    SELECT aggregate, max(version) AS version FROM outbox WHERE stream_sequence <= $1 GROUP BY aggregate
)
DELETE FROM outbox USING oldest
WHERE outbox.aggregate = oldest.aggregate AND (
    stream_sequence <= $1
    OR (outbox.version <= oldest.version AND (stream_sequence IS NOT NULL OR copies > 0))
)
"""
_UNPUBLISH_ALL: Final = (
    "UPDATE outbox SET stream_sequence = NULL, copies = copies + 1 WHERE stream_sequence IS NOT NULL"
)


class Relay:
    """Publishes one database's outbox while `run` runs."""

    compare_every_seconds = 5.0
    # PostgreSQL closes the session of a relay that sends no statement for so long, which frees the lock of a suspended
    # process. A running relay never waits for the bus that long.
    silent_seconds_max = 15.0
    # Few enough for one statement, and more than are published between two comparisons.
    removed_max = 20_000

    def __init__(
        self, database: Database, bus: Bus, snapshots: Sequence[Snapshots] = (), consumers: Collection[str] = ()
    ) -> None:
        """`consumers` are the services that subscribe to events of this one."""
        self._database = database
        self._bus = bus
        self._snapshots = snapshots
        self._consumers = consumers
        self._has_work = asyncio.Event()
        self._compare = asyncio.Event()
        # Whether this replica's relay publishes.
        self.is_leading = False
        self._notifying: asyncio.Task[None] | None = None
        self._last_sequence = 0
        database.published = self.wake
        bus.on_reconnect(self._compare_now)

    def wake(self) -> None:
        """Signal that there is something to publish; called after commits, so it is cheap and never fails.

        It runs outside the transaction, because NOTIFY inside one serialises commits. If the process dies between
        commit and signal, polling finds the rows.
        """
        if self.is_leading:
            self._has_work.set()
        elif self._notifying is None or self._notifying.done():
            self._notifying = asyncio.create_task(self._notify())

    async def _notify(self) -> None:
        await asyncio.sleep(0.002)
        try:
            await self._database.execute("SELECT pg_notify($1, '')", _CHANNEL)
        except (Unavailable, *UNREACHABLE):
            log.info("the relay was not notified; it polls", extra={"service": self._bus.service})

    def _compare_now(self) -> None:
        self._compare.set()
        self._has_work.set()

    async def run(self) -> None:
        """Relay until cancelled, through every outage of the database or the bus."""
        await self._bus.ready()
        await self._bus.on_republish_request(self._republish)
        while True:
            try:
                await self._hold_lock_and_relay()
                await asyncio.sleep(_STANDBY_SECONDS)
            except (*UNREACHABLE, *buses.UNREACHABLE, asyncpg.InterfaceError) as error:
                extra = {"service": self._bus.service, "error": str(error) or repr(error)}
                log.warning("the relay restarts", extra=extra)
                await asyncio.sleep(_RESTART_SECONDS)
            finally:
                self.is_leading = False

    async def _hold_lock_and_relay(self) -> None:
        """Relay for as long as this connection holds the lock; return at once if another replica's relay does."""
        connection = await asyncpg.connect(
            self._database.url,
            timeout=5,
            command_timeout=30,
            server_settings={
                "application_name": "relay",
                "jit": "off",
                # A stopped process keeps its connection, and with it the lock.
                "idle_session_timeout": str(int(self.silent_seconds_max * 1000)),
            },
        )
        try:
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
                return
            await connection.add_listener(_CHANNEL, lambda *_: self._has_work.set())
            self.is_leading = True
            await self._relay(connection)
        finally:
            connection.terminate()

    async def _relay(self, connection: "asyncpg.Connection[Any]") -> None:
        loop = asyncio.get_running_loop()
        next_compare = loop.time()
        while True:
            self._has_work.clear()
            if self._compare.is_set() or loop.time() >= next_compare:
                self._compare.clear()
                state = await self._compare_with_stream(connection)
                await self._make_room(connection, state)
                next_compare = loop.time() + self.compare_every_seconds
            if await self._publish_batch(connection) == 0:
                try:
                    # Not wait_for: before Python 3.12 it may swallow a cancellation that arrives with the wake-up.
                    async with asyncio.timeout(_POLL_SECONDS):
                        await self._has_work.wait()
                except TimeoutError:
                    continue

    async def _publish_batch(self, connection: "asyncpg.Connection[Any]") -> int:
        rows = await connection.fetch(_UNPUBLISHED, _BATCH)
        if not rows:
            return 0
        sent: list[tuple[int, asyncio.Future[int]]] = []
        try:
            for row in rows:
                expected_last = self._last_sequence + len(sent)
                sent.append((row["position"], await self._publish(row, expected_last)))
            await asyncio.wait([future for _, future in sent], timeout=_ACKNOWLEDGED_WITHIN_SECONDS)
        finally:
            for _, future in sent:
                future.cancel()  # unacknowledged ones
        acknowledged = [
            (position, future.result())
            for position, future in sent
            if not future.cancelled() and future.exception() is None
        ]
        if acknowledged:
            positions, sequences = zip(*acknowledged, strict=True)
            await connection.execute(_ACKNOWLEDGE, positions, sequences)
        if len(acknowledged) < len(sent):
            reasons = (future.exception() for _, future in sent if not future.cancelled())
            reason = next((f": {error}" for error in reasons if error is not None), "")
            raise TimeoutError(f"{len(sent) - len(acknowledged)} of {len(sent)} events were not acknowledged{reason}")
        self._last_sequence = max(self._last_sequence, *sequences)
        return len(rows)

    async def _publish(self, row: Row, expected_last: int) -> "asyncio.Future[int]":
        message = wrap(
            row["id"],
            self._bus.service,
            row["type"],
            row["aggregate"],
            row["recorded_at"],
            row["data"],
            row["traceparent"],
        )
        message_id = f"{row['id']}.{row['copies']}" if row["copies"] else str(row["id"])
        return await self._bus.publish(subject_of(event_types()[row["type"]]), message, message_id, expected_last)

    async def _compare_with_stream(self, connection: "asyncpg.Connection[Any]") -> StreamState:
        state = await self._bus.ensure_stream()
        tag = await connection.execute(_UNPUBLISH_LOST, state.first_seq, state.last_seq, state.deleted)
        if lost := affected_rows(tag):
            log.warning(
                "the bus lost events; they are published again", extra={"service": self._bus.service, "events": lost}
            )
        self._last_sequence = state.last_seq
        return state

    async def _make_room(self, connection: "asyncpg.Connection[Any]", state: StreamState) -> None:
        """Remove the oldest events from a stream that is nearly full, and from the outbox, if all have consumed them.

        They go from the outbox first: events that only the stream lacks would count as lost.
        """
        limit = self._bus.stream_bytes_max
        if not limit or state.bytes <= limit * _NEARLY_FULL:
            return
        consumed = await self._bus.consumed_sequence(state, self._consumers)
        # The last event stays: by it a service recognises an outbox that was restored to an earlier time.
        until = min(consumed, state.first_seq + self.removed_max - 1, state.last_seq - 1)
        if until < state.first_seq:
            log.warning(
                "the stream is nearly full, and a service has not consumed its oldest event",
                extra={"service": self._bus.service, "bytes": state.bytes, "limit": limit},
            )
            return
        await connection.execute(_REMOVE_OLDEST, until)
        await self._bus.remove_events(until)

    async def _republish(self, request: RepublishRequest) -> None:
        wanted = (request.aggregate, request.above_version)
        try:
            if await self._database.fetchval(_IS_PRUNED, *wanted):
                await publish_snapshot(self._database, self._snapshots, request.aggregate)
            tag = await self._database.execute(_UNPUBLISH_AGGREGATE, *wanted)
        except (Unavailable, *UNREACHABLE):
            log.info(
                "the database is unreachable; a republish request is ignored", extra={"service": self._bus.service}
            )
            return
        log.info(
            "an aggregate is published again",
            extra={"service": self._bus.service, "aggregate": request.aggregate, "events": affected_rows(tag)},
        )
        self.wake()


class ServiceRuns(Exception):
    """The service runs: its relay holds the lock of the database"""


@asynccontextmanager
async def without_relay(database: Database) -> AsyncIterator[None]:
    """Keep every relay of this database from publishing for as long as the block lasts; raises ServiceRuns."""
    connection = await asyncpg.connect(database.url, timeout=5)
    try:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
            raise ServiceRuns
        yield
    finally:
        await connection.close()


async def replay(database: Statements) -> int:
    """Mark every event in the outbox as unpublished, so that the relay publishes it again; return how many."""
    return affected_rows(await database.execute(_UNPUBLISH_ALL))
