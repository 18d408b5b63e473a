"""The inbox: runs a service's handlers over the events it subscribes to, each event once.

Event ids, effects and published events commit in one transaction; the bus is acknowledged after the commit. An event
that is delivered again finds its id and has no further effect.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from nats.aio.msg import Msg

from admitone.kernel import clock
from admitone.kernel.database.pool import UNREACHABLE, Database, Transaction, is_unreachable
from admitone.kernel.errors import Unavailable
from admitone.kernel.messaging import bus as buses
from admitone.kernel.messaging.bus import Bus, RepublishRequest
from admitone.kernel.messaging.event import Envelope, Event, Undecodable, UnknownEvent, subject_of, unwrap
from admitone.kernel.messaging.failures import record_failure
from admitone.kernel.messaging.handlers import AnyHandler, BatchHandler, MissingEvents
from admitone.kernel.messaging.subscriptions import announce, announced
from admitone.kernel.tasks import finish
from admitone.kernel.tracing import trace_span

log = logging.getLogger(__name__)


ATTEMPTS_MAX: Final = 5
_UNREACHABLE_DELAY_SECONDS: Final = 1.0
# Until a replica of another release takes an event that this one does not subscribe to.
_UNSUBSCRIBED_DELAY_SECONDS: Final = 0.5
# Each pause of an event that must wait is longer than the one before.
_WAITING_DELAY_GROWTH: Final = 1.5
_WAITING_DELAY_SECONDS_MAX: Final = 60.0
# What it waits for usually arrives before; from then on operators see the event among the failing ones.
_WAITING_RECORDED_FROM: Final = 5
_REQUEST_AGAIN_SECONDS_MAX: Final = 600.0
_BATCH: Final = 100
_PULL_EXPIRES_SECONDS: Final = 30
_SILENCE_SECONDS: Final = 3.0
_RESTART_SECONDS: Final = 0.5
_FINISH_SECONDS: Final = 4.0

_CONSUME: Final = """
WITH fresh AS (INSERT INTO inbox (id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING id)
SELECT id, fresh.id IS NOT NULL AS is_fresh,
    EXISTS (SELECT FROM dead_letter WHERE dead_letter.id = event.id::text) AS has_failed
FROM (SELECT DISTINCT unnest($1::uuid[]) AS id) AS event LEFT JOIN fresh USING (id)
"""
_UNCONSUME: Final = "DELETE FROM inbox WHERE id = ANY($1::uuid[])"
# A success deletes the record of earlier failures, and a copy that arrives after it that of failures since.
_RECOVER: Final = "DELETE FROM dead_letter WHERE id = ANY($1::uuid[]::text[])"


@dataclass(frozen=True)
class _Received:
    message: Msg
    envelope: Envelope
    event: Event


_Decoded = tuple[Envelope, Event]


@dataclass
class _Copy:
    """The one copy of an event that waits on the bus for its predecessor, and how often it was delivered."""

    stream_sequence: int
    deliveries: int


class Inbox:
    """Consumes the events a service subscribes to."""

    # Before each further attempt at a failing event.
    delays_seconds: Sequence[float] = (0.2, 1.0, 5.0, 30.0)
    # Before the second delivery of an event that must wait: its predecessor is missing, or it is of another release.
    waiting_delay_seconds = 0.25
    # Such an event becomes a dead letter after so many deliveries: after about half an hour.
    waiting_deliveries_max = 40
    # Between the first two requests for the events of one aggregate; each further pause is twice as long.
    request_again_seconds = 5.0
    # How often a replica announces what it subscribes to, and how long that counts.
    announce_seconds = 30.0
    announced_seconds = 300.0

    def __init__(
        self, service: str, database: Database, bus: Bus, subscriptions: Mapping[type[Event], AnyHandler]
    ) -> None:
        self._service = service
        self._database = database
        self._bus = bus
        self._subscriptions = subscriptions
        # By producer: what the replicas of this service subscribe to, and when to announce that again.
        self._subjects: dict[str, list[str]] = {}
        self._announce_at: dict[str, float] = {}
        self._waiting: dict[UUID, _Copy] = {}
        # When the events of an aggregate may be requested again, and the pause after that.
        self._requests: dict[UUID, tuple[float, float]] = {}
        self._pulling: set[asyncio.Queue[Msg | None]] = set()
        bus.on_reconnect(self._pull_again)

    async def run(self, producer: str) -> None:
        """Consume one producer's events until cancelled, through every outage of the bus or the database."""
        await self._bus.ready()
        while True:
            try:
                await self._subscribe(producer)
                await self._pull(producer)
            except (Unavailable, *buses.UNREACHABLE, *UNREACHABLE) as error:
                # An error response is usual until the producer has created its stream.
                level = logging.DEBUG if isinstance(error, buses.BusError) else logging.WARNING
                extra = {"service": self._service, "producer": producer, "error": str(error) or repr(error)}
                log.log(level, "the consumer restarts", extra=extra)
                await asyncio.sleep(_RESTART_SECONDS)

    async def _subscribe(self, producer: str) -> None:
        """Announce what this replica subscribes to, and let the consumer deliver what any replica subscribes to."""
        own = sorted(subject_of(each) for each in self._subscriptions if each.producer == producer)
        await announce(self._database, own)
        # Another replica may announce meanwhile, and its filter may be replaced by the one that was read before: the
        # last filter must be what is read after it.
        given: list[str] | None = None
        while (wanted := await announced(self._database, producer, self.announced_seconds)) != given:
            await self._bus.ensure_consumer(producer, wanted)
            given = wanted
        self._subjects[producer] = wanted
        self._announce_at[producer] = clock.monotonic_seconds() + self.announce_seconds

    async def _pull(self, producer: str) -> None:
        """Pull events and handle them in batches until the connection or the consumer is lost."""
        arrivals: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._pulling.add(arrivals)
        # The stream may be another one with other sequences; every event that waits is delivered again.
        self._waiting.clear()
        reply = self._bus.new_inbox()
        subscription = await self._bus.subscribe(reply, arrivals.put)
        try:
            outstanding = 0
            while True:
                if clock.monotonic_seconds() >= self._announce_at[producer]:
                    await self._subscribe(producer)
                if outstanding <= _BATCH // 2:
                    await self._bus.pull(producer, reply, messages_max=_BATCH, expires_seconds=_PULL_EXPIRES_SECONDS)
                    outstanding += _BATCH
                # Without even a heartbeat the pull request was lost: start again.
                async with asyncio.timeout(_SILENCE_SECONDS):
                    arrived = [await arrivals.get()]
                while not arrivals.empty() and len(arrived) < _BATCH:
                    arrived.append(arrivals.get_nowait())
                events = [message for message in arrived if message is not None and _is_event(message)]
                outstanding -= len(events)
                if any(_ends_request(message) for message in arrived):
                    outstanding = 0
                if events:
                    await finish(asyncio.create_task(self._receive_all(events)), _FINISH_SECONDS)
        finally:
            self._pulling.discard(arrivals)
            try:
                await subscription.unsubscribe()
                while not arrivals.empty():
                    message = arrivals.get_nowait()
                    if message is not None and _is_event(message):
                        await message.nak()  # at once, for another replica or the next start
            except buses.UNREACHABLE:
                log.debug("the subscription was lost with its connection", extra={"service": self._service})

    def _pull_again(self) -> None:
        """Start again: pull requests are lost with their connection."""
        self._waiting.clear()
        for arrivals in self._pulling:
            arrivals.put_nowait(None)

    def _decode(self, message: bytes) -> _Decoded:
        return unwrap(message)

    async def _receive_all(self, messages: Sequence[Msg]) -> None:
        received: list[_Received] = []
        for message in messages:
            try:
                each = _Received(message, *self._decode(message.data))
            except UnknownEvent as reason:
                await self._let_wait(message, reason.event_id, str(reason), message.metadata.num_delivered)
            except Undecodable as reason:
                letter_id = f"{message.metadata.stream}:{message.metadata.sequence.stream}"
                await self._record_failure(message, letter_id, str(reason), attempts_max=1)
            else:
                if type(each.event) in self._subscriptions:
                    received.append(each)
                elif await self._is_wanted(message.subject, each.event.producer):
                    await message.nak(delay=_UNSUBSCRIBED_DELAY_SECONDS)
                else:
                    await message.ack()
        if received:
            await self._receive_decoded(received)

    async def _is_wanted(self, subject: str, producer: str) -> bool:
        """Whether a replica subscribes to what this one does not: perhaps one that announced it a moment ago."""
        if subject not in self._subjects.get(producer, ()):
            self._subjects[producer] = await announced(self._database, producer, self.announced_seconds)
        return subject in self._subjects[producer]

    async def _receive_decoded(self, received: Sequence[_Received]) -> None:
        try:
            async with self._database.transaction() as tx:
                missing = await self.consume(tx, [(each.envelope, each.event) for each in received])
        except Exception as error:
            if len(received) > 1 and not is_unreachable(error):
                # One event fails the transaction for all. Halving isolates it in few transactions.
                log.info("a batch failed and is split", extra={"service": self._service, "events": len(received)})
                middle = len(received) // 2
                await self._receive_decoded(received[:middle])
                await self._receive_decoded(received[middle:])
            elif isinstance(error, (Unavailable, *UNREACHABLE)):
                extra = {"service": self._service, "error": repr(error)}
                log.warning("the database is unreachable; events stay on the bus", extra=extra)
                for each in received:
                    await each.message.nak(delay=_UNREACHABLE_DELAY_SECONDS)
            else:
                [each] = received
                log.exception("handler failed", extra=self._context(each))
                text = f"{type(error).__name__}: {error}"
                await self._record_failure(each.message, str(each.envelope.id), text, ATTEMPTS_MAX)
            return
        for index, each in enumerate(received):
            if index in missing:
                await self._wait_for_missing(each, missing[index])
            else:
                self._waiting.pop(each.envelope.id, None)
                await each.message.ack()

    async def consume(self, tx: Transaction, events: Sequence[tuple[Envelope, Event]]) -> dict[int, MissingEvents]:
        """Handle, in order, the events not consumed before; return which must be delivered again, by index.

        Raises what a handler raises besides MissingEvents: then the transaction must be rolled back.
        """
        rows = await tx.fetch(_CONSUME, [envelope.id for envelope, _ in events])
        fresh = {row["id"] for row in rows if row["is_fresh"]}
        unique = {envelope.id: (envelope, event) for envelope, event in events if envelope.id in fresh}
        waiting = await self._handle(tx, list(unique.values()))
        if 0 < len(waiting) < len(unique):
            # What they wait for may have followed them in this very batch.
            waiting = await self._handle(tx, [each for each in unique.values() if each[0].id in waiting])
        if waiting:
            await tx.execute(_UNCONSUME, list(waiting))
        if recovered := [row["id"] for row in rows if row["has_failed"] and row["id"] not in waiting]:
            await tx.execute(_RECOVER, recovered)
        # One event may occur twice in a batch: no copy is acknowledged while another must be delivered again.
        return {index: waiting[envelope.id] for index, (envelope, _) in enumerate(events) if envelope.id in waiting}

    async def _handle(self, tx: Transaction, events: Sequence[_Decoded]) -> dict[UUID, MissingEvents]:
        """Handle events, in batches where the handler allows it; return those that must wait, by id."""
        waiting: dict[UUID, MissingEvents] = {}
        for group in _in_groups(events):
            handler = self._subscriptions[type(group[0][1])]
            state = await handler.load(tx, [event for _, event in group]) if isinstance(handler, BatchHandler) else None
            for envelope, event in group:
                with trace_span(envelope.traceparent or None, f"{self._service} consumes {envelope.type}"):
                    try:
                        if isinstance(handler, BatchHandler):
                            handler.handle(tx, state, event)
                        else:
                            await handler(tx, event)
                    except MissingEvents as missing:
                        waiting[envelope.id] = missing
            if isinstance(handler, BatchHandler):
                await handler.save(tx, state)
        return waiting

    async def _wait_for_missing(self, each: _Received, missing: MissingEvents) -> None:
        """Let the event be delivered again later, and ask its producer for the events before it.

        A request publishes the waiting event again, too. Only its latest copy waits; the others are acknowledged, so
        that requests add nothing to what is delivered again.
        """
        metadata = each.message.metadata
        known = self._waiting.get(each.envelope.id, _Copy(0, 0))
        if metadata.sequence.stream < known.stream_sequence:
            await each.message.ack()
            return
        deliveries = max(metadata.num_delivered, known.deliveries + 1)
        self._waiting[each.envelope.id] = _Copy(metadata.sequence.stream, deliveries)
        log.info("an earlier event has not arrived", extra={**self._context(each), "missing": str(missing)})
        # At the first delivery it is probably on its way; a request costs the producer work.
        if deliveries > 1 and self._may_request(missing.aggregate):
            request = RepublishRequest(missing.aggregate, missing.have_version)
            await self._bus.request_republish(missing.producer, request)
        error = f"an earlier event has not arrived: {missing}"
        if await self._let_wait(each.message, each.envelope.id, error, deliveries):
            self._waiting.pop(each.envelope.id, None)

    async def _let_wait(self, message: Msg, event_id: UUID, reason: str, deliveries: int) -> bool:
        """Let an event be delivered again after a growing pause; True if it becomes a dead letter instead."""
        delay_seconds = self.waiting_delay_seconds * _WAITING_DELAY_GROWTH ** min(deliveries - 1, 20)
        delay_seconds = min(delay_seconds, _WAITING_DELAY_SECONDS_MAX)
        if deliveries < _WAITING_RECORDED_FROM:
            await message.nak(delay=delay_seconds)
            return False
        attempts_max = 1 if deliveries >= self.waiting_deliveries_max else self.waiting_deliveries_max
        return await self._record_failure(message, str(event_id), reason, attempts_max, delay_seconds)

    def _may_request(self, aggregate: UUID) -> bool:
        """Whether so much time passed since the events of an aggregate were last requested; notes the request."""
        now = clock.monotonic_seconds()
        self._requests = {each: (at, pause) for each, (at, pause) in self._requests.items() if now < at + pause}
        at, pause_seconds = self._requests.get(aggregate, (now, self.request_again_seconds))
        if now < at:
            return False
        self._requests[aggregate] = (now + pause_seconds, min(pause_seconds * 2, _REQUEST_AGAIN_SECONDS_MAX))
        return True

    async def _record_failure(
        self, message: Msg, letter_id: str, error: str, attempts_max: int, delay_seconds: float | None = None
    ) -> bool:
        """Count the failure; the event is delivered again, or becomes a dead letter after `attempts_max`: True."""
        try:
            attempts, is_given_up = await record_failure(
                self._database, letter_id, message.subject, message.data, error, attempts_max
            )
        except (Unavailable, *UNREACHABLE):
            await message.nak(delay=_UNREACHABLE_DELAY_SECONDS)
            return False
        if is_given_up:
            extra = {"service": self._service, "letter": letter_id, "error": error}
            log.error("a message becomes a dead letter", extra=extra)
            await message.ack()
            return True
        if delay_seconds is None:
            delay_seconds = self.delays_seconds[min(attempts, len(self.delays_seconds)) - 1]
        await message.nak(delay=delay_seconds)
        return False

    def _context(self, each: _Received) -> dict[str, object]:
        return {
            "service": self._service,
            "event": each.envelope.type,
            "event_id": each.envelope.id,
            "aggregate": each.envelope.subject,
        }


def _is_event(message: Msg) -> bool:
    """Whether a message is an event to acknowledge, not a status of the pull request."""
    return message.reply.startswith("$JS.ACK")


def _ends_request(message: Msg | None) -> bool:
    """Whether the pull request ended: the connection was lost (None), or the bus says so; 100 is only its heartbeat.

    Raises BusError if no request can follow: the consumer or the stream is gone, or the server shuts down.
    """
    if message is None:
        return True
    status = (message.headers or {}).get("Status")
    if status in {"409", "503"}:
        raise buses.BusError(int(status), (message.headers or {}).get("Description", "no consumer responds"))
    return status is not None and status != "100"


def _in_groups(events: Sequence[_Decoded]) -> list[list[_Decoded]]:
    """Group events by type, so that each aggregate's events keep their order and no group has two of them."""
    turns: list[dict[type[Event], list[_Decoded]]] = []
    seen: Counter[UUID] = Counter()
    for envelope, event in events:
        turn = seen[event.aggregate]
        seen[event.aggregate] += 1
        if turn == len(turns):
            turns.append({})
        turns[turn].setdefault(type(event), []).append((envelope, event))
    return [group for turn in turns for group in turn.values()]
