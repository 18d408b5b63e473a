"""The relay: publishes what the outbox holds, and publishes again what the bus lost.

There is one relay per database, held by an advisory lock; every other replica's relay stands by. The outbox is the
truth. Each row keeps the stream sequence with which the bus acknowledged it, so the relay can tell a healthy stream
from one that was wiped, rolled back or robbed of single messages.

A sequence says where an event is only as long as the stream gives none out a second time. So every event names the
sequence that the one before it has: a stream that lost its end takes nothing more, not even what the client still held
back for it, until the relay has compared and knows what is to be published again.
"""

import asyncio
import logging
from typing import Any, Final

import asyncpg

from admitone.kernel import bus as buses
from admitone.kernel.bus import Bus, RepublishRequest
from admitone.kernel.database import UNREACHABLE, Database, Row, Statements, affected
from admitone.kernel.event import event_types, subject_of, wrap
from admitone.kernel.refusals import Unavailable

log = logging.getLogger(__name__)

_LOCK: Final = 0x0B0C5  # one relay per database
_BATCH: Final = 256
_ACKNOWLEDGED_WITHIN_SECONDS: Final = 5.0
_STANDBY_SECONDS: Final = 1.0
_LOOK_ANYWAY_SECONDS: Final = 0.25
_COMPARE_EVERY_SECONDS: Final = 5.0
# Longer than a relay that runs ever leaves its connection alone: what it waits for at the bus is given up before.
_STILL_SECONDS_MAX: Final = 15.0
_CHANNEL: Final = "outbox"

# In insert order, and every row that is not published: never "the ones above the last id", because sequences commit
# out of order and a slow transaction's rows would be skipped for ever.
_UNPUBLISHED: Final = """
SELECT position, id, type, aggregate, data, traceparent, recorded_at, copies
FROM outbox WHERE stream_sequence IS NULL ORDER BY position LIMIT $1
"""
_ACKNOWLEDGE: Final = """
UPDATE outbox SET stream_sequence = acknowledged.sequence
FROM unnest($1::bigint[], $2::bigint[]) AS acknowledged (position, sequence)
WHERE outbox.position = acknowledged.position
"""
_FORGET_LOST: Final = """
UPDATE outbox SET stream_sequence = NULL, copies = copies + 1
WHERE stream_sequence > $2 OR stream_sequence < $1 OR stream_sequence = ANY($3::bigint[])
"""
_FORGET_AGGREGATE: Final = """
UPDATE outbox SET stream_sequence = NULL, copies = copies + 1
WHERE aggregate = $1 AND (version > $2 OR version IS NULL) AND stream_sequence IS NOT NULL
"""
_FORGET_ALL: Final = "UPDATE outbox SET stream_sequence = NULL, copies = copies + 1 WHERE stream_sequence IS NOT NULL"


class _StandBy(Exception):
    """Another replica's relay holds the lock."""


class Relay:
    """Publishes one database's outbox for as long as `run` runs."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        *,
        compare_every_seconds: float = _COMPARE_EVERY_SECONDS,
        still_seconds_max: float = _STILL_SECONDS_MAX,
    ) -> None:
        self._database = database
        self._bus = bus
        self._compare_every_seconds = compare_every_seconds
        self._still_seconds_max = still_seconds_max
        self._wake = asyncio.Event()
        self._compare = asyncio.Event()
        self._leads = False
        self._alive = True
        self._nudging: asyncio.Task[None] | None = None
        self._last_sequence = 0
        database.on_told(self.nudge)
        bus.on_reconnect(self._compare_now)

    @property
    def is_alive(self) -> bool:
        """Whether this relay reaches its database; without the bus it still waits there for better times."""
        return self._alive

    @property
    def is_leading(self) -> bool:
        """Whether this replica's relay is the one that publishes."""
        return self._leads

    def nudge(self) -> None:
        """Say that there is something to publish; called after commits, so it is cheap and never fails.

        It stays outside the transaction, because a NOTIFY inside one makes PostgreSQL commit one at a time.
        What a crash between commit and nudge leaves behind is found by the next look.
        """
        if self._leads:
            self._wake.set()
        elif self._nudging is None or self._nudging.done():
            self._nudging = asyncio.create_task(self._notify())

    async def _notify(self) -> None:
        await asyncio.sleep(0.002)
        try:
            await self._database.execute("SELECT pg_notify($1, '')", _CHANNEL)
        except (Unavailable, *UNREACHABLE):
            log.info("nudge was not sent; the relay looks by itself", extra={"service": self._bus.service})

    def _compare_now(self) -> None:
        self._compare.set()
        self._wake.set()

    async def run(self) -> None:
        """Relay until cancelled, through every loss of the database or the bus."""
        await self._bus.ready()
        await self._bus.on_republish_request(self._republish)
        while True:
            try:
                await self._hold_lock_and_relay()
            except _StandBy:
                await asyncio.sleep(_STANDBY_SECONDS)
            except (*UNREACHABLE, *buses.UNREACHABLE, asyncpg.InterfaceError) as error:
                log.warning("relay starts over", extra={"service": self._bus.service, "error": repr(error)})
                await asyncio.sleep(_LOOK_ANYWAY_SECONDS)
            finally:
                self._leads = False

    async def _hold_lock_and_relay(self) -> None:
        try:
            connection = await asyncpg.connect(
                self._database.url,
                timeout=5,
                command_timeout=30,
                server_settings={
                    "application_name": "relay",
                    "jit": "off",
                    # A process that stands still keeps its connection, and would keep the lock from every other.
                    "idle_session_timeout": str(int(self._still_seconds_max * 1000)),
                },
            )
        except Exception:
            self._alive = False
            raise
        self._alive = True
        try:
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
                raise _StandBy
            await connection.add_listener(_CHANNEL, lambda *_: self._wake.set())
            self._leads = True
            await self._relay(connection)
        finally:
            connection.terminate()

    async def _relay(self, connection: "asyncpg.Connection[Any]") -> None:
        loop = asyncio.get_running_loop()
        next_compare = loop.time()
        while True:
            self._wake.clear()
            if self._compare.is_set() or loop.time() >= next_compare:
                self._compare.clear()
                await self._compare_with_stream(connection)
                next_compare = loop.time() + self._compare_every_seconds
            if await self._publish_batch(connection) == 0:
                try:
                    # Not wait_for: before Python 3.12 it may swallow a cancellation that comes with the wake-up.
                    async with asyncio.timeout(_LOOK_ANYWAY_SECONDS):
                        await self._wake.wait()
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
                future.cancel()  # those without an answer: nobody waits for it any more
        acknowledged = [(position, future.result()) for position, future in sent if _has_answer(future)]
        if acknowledged:
            positions, sequences = zip(*acknowledged, strict=True)
            await connection.execute(_ACKNOWLEDGE, positions, sequences)
        if len(acknowledged) < len(sent):
            raise TimeoutError(f"{len(sent) - len(acknowledged)} of {len(sent)} events were not acknowledged")
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

    async def _compare_with_stream(self, connection: "asyncpg.Connection[Any]") -> None:
        state = await self._bus.ensure_stream()
        tag = await connection.execute(_FORGET_LOST, state.first_seq, state.last_seq, state.deleted)
        if lost := affected(tag):
            log.warning(
                "bus lost events; they are published again", extra={"service": self._bus.service, "events": lost}
            )
        self._last_sequence = state.last_seq

    async def _republish(self, request: RepublishRequest) -> None:
        try:
            tag = await self._database.execute(_FORGET_AGGREGATE, request.aggregate, request.above_version)
        except (Unavailable, *UNREACHABLE):
            log.info("asked to publish again while the database is away", extra={"service": self._bus.service})
            return
        log.info(
            "publishing an aggregate again",
            extra={"service": self._bus.service, "aggregate": request.aggregate, "events": affected(tag)},
        )
        self.nudge()


def _has_answer(future: "asyncio.Future[int]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


async def replay(database: Statements) -> int:
    """Mark every event still kept as unpublished, so that the relay publishes it again; return how many."""
    return affected(await database.execute(_FORGET_ALL))
