"""The inbox: takes events from the bus so that each has its effect once, whatever the bus or the process does.

Event id, effects and outgoing events are one transaction; the acknowledgement follows the commit. Events that came
together are taken in together, in order; when one of them fails, they are halved until it is alone.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from nats.aio.msg import Msg

from admitone.kernel import bus as buses
from admitone.kernel import clock
from admitone.kernel.bus import Bus, RepublishRequest
from admitone.kernel.database import UNREACHABLE, Database, Transaction, is_away
from admitone.kernel.event import Envelope, Event, Undecodable, subject_of, unwrap
from admitone.kernel.refusals import Unavailable
from admitone.kernel.trace import following

log = logging.getLogger(__name__)

Handler = Callable[[Transaction, Any], Awaitable[None]]

E = TypeVar("E", bound=Event)

ATTEMPTS_MAX: Final = 5
_DELAYS_SECONDS: Final = (0.2, 1.0, 5.0, 30.0)
_MISSING_DELAY_SECONDS: Final = 0.25
_MISSING_DELAY_SECONDS_MAX: Final = 5.0
_AWAY_DELAY_SECONDS: Final = 1.0
_ASK_AGAIN_SECONDS: Final = 5.0
_BATCH: Final = 100
_PULL_EXPIRES_SECONDS: Final = 30
_SILENCE_SECONDS: Final = 3.0
_START_AGAIN_SECONDS: Final = 0.5
_FINISH_SECONDS: Final = 4.0

# What failed before and goes well now is no failure any more: both are undone together when a handler raises.
_TAKE: Final = """
WITH forgiven AS (DELETE FROM dead_letter WHERE id = ANY($1::uuid[]::text[]))
INSERT INTO inbox (id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING id
"""
_PUT_BACK: Final = "DELETE FROM inbox WHERE id = ANY($1::uuid[])"
_NOTE_FAILURE: Final = """
INSERT INTO dead_letter (id, subject, message, attempts, error, given_up_at)
VALUES ($1, $2, $3, 1, $4, CASE WHEN $5 <= 1 THEN instant() END)
ON CONFLICT (id) DO UPDATE SET
    attempts = dead_letter.attempts + 1, error = excluded.error, last_failed_at = instant(),
    given_up_at = CASE WHEN dead_letter.attempts + 1 >= $5 THEN instant() END
RETURNING attempts, given_up_at IS NOT NULL AS given_up
"""


class MissingEvents(Exception):
    """An earlier event about this aggregate has not come yet.

    A handler raises it before it changes anything. The event is left on the bus and delivered again; the producer is
    asked to publish the aggregate's events above `have_version` (-1: all of them).
    """

    def __init__(self, producer: str, aggregate: UUID, have_version: int = -1) -> None:
        super().__init__(f"{producer} {aggregate} above version {have_version}")
        self.producer = producer
        self.aggregate = aggregate
        self.have_version = have_version


@dataclass(frozen=True)
class Heard(Generic[E]):
    """An event as it came: where a trace began, what is done about it goes on there."""

    event: E
    traceparent: str | None = None


@dataclass(frozen=True)
class Together(Generic[E]):
    """A handler of many events in one statement, no two of them about the same aggregate.

    `usual` applies the events that need no second look and returns, by aggregate, what each of these tells, or None.
    All others go to `each`, one at a time, which knows every case; without it `usual` takes them all.
    """

    usual: Callable[[Transaction, Sequence[Heard[E]]], Awaitable[Mapping[UUID, Event | None]]]
    each: Callable[[Transaction, E], Awaitable[None]] | None = None

    async def __call__(self, tx: Transaction, event: E) -> None:
        assert self.each is not None, f"{type(event).__name__} was left by a handler that takes all"
        await self.each(tx, event)


@dataclass(frozen=True)
class _Received:
    message: Msg
    envelope: Envelope
    event: Event


_Opened = tuple[Envelope, Event]


class Inbox:
    """Runs a service's handlers over the events it hears."""

    def __init__(
        self,
        service: str,
        database: Database,
        bus: Bus,
        hears: Mapping[type[Event], Handler],
        *,
        delays_seconds: Sequence[float] = _DELAYS_SECONDS,
    ) -> None:
        self._service = service
        self._database = database
        self._bus = bus
        self._hears = hears
        self._delays_seconds = delays_seconds
        self._asked: dict[UUID, float] = {}
        self._pulling: set[asyncio.Queue[Msg | None]] = set()
        bus.on_reconnect(self._pull_anew)

    @property
    def producers(self) -> list[str]:
        """The services this one hears."""
        return sorted({event_type.producer for event_type in self._hears})

    async def run(self, producer: str) -> None:
        """Take in one producer's events until cancelled, through every loss of the bus or the database."""
        await self._bus.ready()
        subjects = sorted(subject_of(heard) for heard in self._hears if heard.producer == producer)
        while True:
            try:
                await self._bus.ensure_consumer(producer, subjects)
                await self._take_in(producer)
            except (*buses.UNREACHABLE, *UNREACHABLE) as error:
                level = logging.DEBUG if isinstance(error, buses.Refused) else logging.WARNING
                extra = {"service": self._service, "producer": producer, "error": repr(error)}
                log.log(level, "listening starts over", extra=extra)
                await asyncio.sleep(_START_AGAIN_SECONDS)

    async def _take_in(self, producer: str) -> None:
        arrivals: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._pulling.add(arrivals)
        reply = self._bus.new_inbox()
        subscription = await self._bus.subscribe(reply, arrivals.put)
        try:
            outstanding = 0
            while True:
                if outstanding <= _BATCH // 2:
                    await self._bus.pull(producer, reply, messages_max=_BATCH, expires_seconds=_PULL_EXPIRES_SECONDS)
                    outstanding += _BATCH
                # Silence, not even a heartbeat: the request was lost, so everything is set up anew.
                async with asyncio.timeout(_SILENCE_SECONDS):
                    arrived = [await arrivals.get()]
                while not arrivals.empty() and len(arrived) < _BATCH:
                    arrived.append(arrivals.get_nowait())
                messages = [message for message in arrived if message is not None]
                events = [message for message in messages if message.reply.startswith("$JS.ACK")]
                outstanding -= len(events)
                if len(messages) < len(arrived) or any(_ends_request(message) for message in messages):
                    outstanding = 0
                if events:
                    await self._finish(asyncio.create_task(self._receive_all(events)))
        finally:
            self._pulling.discard(arrivals)
            try:
                await subscription.unsubscribe()
                while not arrivals.empty():
                    await self._put_back(arrivals.get_nowait())
            except buses.UNREACHABLE:
                log.debug("the subscription went with its connection", extra={"service": self._service})

    async def _finish(self, handling: "asyncio.Task[None]") -> None:
        """Wait for the handlers; when this is cancelled meanwhile, even repeatedly, let them end first."""
        try:
            await asyncio.shield(handling)
        except asyncio.CancelledError:
            deadline = clock.monotonic_seconds() + _FINISH_SECONDS
            while not handling.done() and (left := deadline - clock.monotonic_seconds()) > 0:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({handling}, timeout=left)
            handling.cancel()
            raise

    def _pull_anew(self) -> None:
        """Say that the requests for events went with the connection."""
        for arrivals in self._pulling:
            arrivals.put_nowait(None)

    async def _put_back(self, message: Msg | None) -> None:
        """Give an event that was not begun back at once, for another replica or the next start."""
        if message is not None and message.reply.startswith("$JS.ACK"):
            await message.nak()

    async def _receive_all(self, messages: Sequence[Msg]) -> None:
        received: list[_Received] = []
        for message in messages:
            try:
                received.append(_Received(message, *unwrap(message.data)))
            except Undecodable as reason:
                await self._give_up_undecodable(message, reason)
        if received:
            await self._receive_decoded(received)

    async def _receive_decoded(self, received: Sequence[_Received]) -> None:
        try:
            async with self._database.transaction() as tx:
                missing = await self.take_in(tx, [(each.envelope, each.event) for each in received])
        except Exception as error:
            if len(received) > 1 and not is_away(error):
                # One of them spoils the transaction for all. Halving finds it, and the others need few transactions.
                log.info("taking events in halves", extra={"service": self._service, "events": len(received)})
                middle = len(received) // 2
                await self._receive_decoded(received[:middle])
                await self._receive_decoded(received[middle:])
            elif isinstance(error, (Unavailable, *UNREACHABLE)):
                log.warning("events wait on the bus", extra={"service": self._service, "error": repr(error)})
                for each in received:
                    await each.message.nak(delay=_AWAY_DELAY_SECONDS)
            else:
                log.exception("handler failed", extra=self._facts(received[0]))
                await self._note_failure(received[0], error)
            return
        for index, each in enumerate(received):
            if index in missing:
                await self._wait_for_missing(each, missing[index])
            else:
                await each.message.ack()

    async def take_in(self, tx: Transaction, events: Sequence[tuple[Envelope, Event]]) -> dict[int, MissingEvents]:
        """Handle, in order, the events that were not taken in before; return which of them must come again, by index.

        Whatever a handler raises besides MissingEvents is raised: then the transaction must be rolled back.
        """
        fresh = {row["id"] for row in await tx.fetch(_TAKE, [envelope.id for envelope, _ in events])}
        news = list({envelope.id: (envelope, event) for envelope, event in events if envelope.id in fresh}.values())
        waiting = await self._handle(tx, news)
        if 0 < len(waiting) < len(news):
            # What they wait for may have come after them, in this very batch.
            waiting = await self._handle(tx, [each for each in news if each[0].id in waiting])
        if waiting:
            await tx.execute(_PUT_BACK, list(waiting))
        # The same event may stand twice in one batch: no copy of it is done with while another must come again.
        return {index: waiting[envelope.id] for index, (envelope, _) in enumerate(events) if envelope.id in waiting}

    async def _handle(self, tx: Transaction, events: Sequence[_Opened]) -> dict[UUID, MissingEvents]:
        """Handle events, the usual ones of a type together; return those that have to wait, by id."""
        waiting: dict[UUID, MissingEvents] = {}
        for group in _side_by_side(events):
            handler = self._hears[type(group[0][1])]
            done: Mapping[UUID, Event | None] = {}
            if isinstance(handler, Together):
                done = await handler.usual(
                    tx, [Heard(event, envelope.traceparent or None) for envelope, event in group]
                )
            for envelope, event in group:
                with following(envelope.traceparent or None, f"{self._service} hears {envelope.type}"):
                    if event.aggregate not in done:
                        try:
                            await handler(tx, event)
                        except MissingEvents as gap:
                            waiting[envelope.id] = gap
                    elif (told := done[event.aggregate]) is not None:
                        tx.publish(told)
        return waiting

    async def _wait_for_missing(self, each: _Received, gap: MissingEvents) -> None:
        log.info("an earlier event is missing", extra={**self._facts(each), "missing": str(gap)})
        now = clock.monotonic_seconds()
        # The first time it is probably on its way; asking costs the producer work.
        if each.message.metadata.num_delivered > 1 and now - self._asked.get(gap.aggregate, -60.0) > _ASK_AGAIN_SECONDS:
            self._asked = {asked: at for asked, at in self._asked.items() if now - at < _ASK_AGAIN_SECONDS}
            self._asked[gap.aggregate] = now
            await self._bus.request_republish(gap.producer, RepublishRequest(gap.aggregate, gap.have_version))
        deliveries = each.message.metadata.num_delivered
        await each.message.nak(delay=min(_MISSING_DELAY_SECONDS * deliveries, _MISSING_DELAY_SECONDS_MAX))

    async def _note_failure(self, each: _Received, error: Exception) -> None:
        try:
            row = await self._database.fetchrow(
                _NOTE_FAILURE,
                str(each.envelope.id),
                each.message.subject,
                each.message.data,
                f"{type(error).__name__}: {error}",
                ATTEMPTS_MAX,
            )
        except (Unavailable, *UNREACHABLE):
            await each.message.nak(delay=_AWAY_DELAY_SECONDS)
            return
        assert row is not None
        if row["given_up"]:
            log.error("event is a dead letter", extra=self._facts(each))
            await each.message.ack()
        else:
            await each.message.nak(delay=self._delays_seconds[min(row["attempts"], len(self._delays_seconds)) - 1])

    async def _give_up_undecodable(self, message: Msg, reason: Undecodable) -> None:
        metadata = message.metadata
        letter_id = f"{metadata.stream}:{metadata.sequence.stream}"
        log.error("message is no event; it is a dead letter", extra={"service": self._service, "letter": letter_id})
        try:
            await self._database.execute(_NOTE_FAILURE, letter_id, message.subject, message.data, str(reason), 1)
        except (Unavailable, *UNREACHABLE):
            await message.nak(delay=_AWAY_DELAY_SECONDS)
        else:
            await message.ack()

    def _facts(self, each: _Received) -> dict[str, object]:
        return {
            "service": self._service,
            "event": each.envelope.type,
            "event_id": each.envelope.id,
            "aggregate": each.envelope.subject,
        }


def _ends_request(message: Msg) -> bool:
    """Whether this is the bus saying that a pull request is over; 100 is only its heartbeat.

    Raises Refused when there will be no other one: the consumer or the whole stream is gone, or the server goes.
    """
    status = (message.headers or {}).get("Status")
    if status in {"409", "503"}:
        raise buses.Refused(int(status), (message.headers or {}).get("Description", "no consumer answers"))
    return status is not None and status != "100"


def _side_by_side(events: Sequence[_Opened]) -> list[list[_Opened]]:
    """Group events by type, so that those of one aggregate stay in their order and no group has two of them."""
    turns: list[dict[type[Event], list[_Opened]]] = []
    met: Counter[UUID] = Counter()
    for envelope, event in events:
        turn = met[event.aggregate]
        met[event.aggregate] += 1
        if turn == len(turns):
            turns.append({})
        turns[turn].setdefault(type(event), []).append((envelope, event))
    return [group for turn in turns for group in turn.values()]
