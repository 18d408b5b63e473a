"""A bus with JetStream's promises and its failures: streams, durable consumers, redelivery, loss."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

from admitone.kernel.messaging.bus import BusError, RepublishRequest, StreamState

if TYPE_CHECKING:
    from proof.simulation.world import Process, World

_NOT_FOUND: Final = 10059
_WRONG_LAST_SEQUENCE: Final = 10071
# Longer than the real bus waits: the later something comes again, the more has changed meanwhile.
_ACK_WAIT_SECONDS: Final = 30.0
_DUPLICATE_WINDOW_SECONDS: Final = 120.0
_BATCH: Final = 8


@dataclass
class _Stored:
    subject: str
    data: bytes
    message_id: str
    at: float


@dataclass
class _Waiting:
    """A message that a consumer has not acknowledged."""

    from_: float
    deliveries: int = 0


@dataclass
class _Consumer:
    subjects: frozenset[str]
    waiting: dict[int, _Waiting] = field(default_factory=dict)


@dataclass
class _Stream:
    messages: dict[int, _Stored] = field(default_factory=dict)
    last: int = 0
    deleted: list[int] = field(default_factory=list)
    known_ids: dict[str, tuple[int, float]] = field(default_factory=dict)
    consumers: dict[str, _Consumer] = field(default_factory=dict)


@dataclass(frozen=True)
class _Sequence:
    stream: int


@dataclass(frozen=True)
class _Metadata:
    stream: str
    sequence: _Sequence
    num_delivered: int


@dataclass(frozen=True)
class _Publication:
    """What a process sends to its stream, and waits to hear the sequence of."""

    process: "Process"
    subject: str
    data: bytes
    message_id: str
    expected_last: int | None
    sequence: "asyncio.Future[int]"


class Delivery:
    """A message as a consumer gets it."""

    reply = "$JS.ACK"
    headers = None

    def __init__(self, process: "Process", producer: str, sequence: int, stored: _Stored, deliveries: int) -> None:
        self._process = process
        self._producer = producer
        self._sequence = sequence
        self.subject = stored.subject
        self.data = stored.data
        self.metadata = _Metadata(producer, _Sequence(sequence), deliveries)

    async def ack(self) -> None:
        self._process.world.bus.settle(self._process, self._producer, self._sequence, None)

    async def nak(self, delay: float | None = None) -> None:
        self._process.world.bus.settle(self._process, self._producer, self._sequence, delay or 0.0)


class SimulatedBus:
    """All streams of the marketplace."""

    def __init__(self, world: "World", random: Random) -> None:
        self._world = world
        self._random = random
        self._streams: dict[str, _Stream] = {}
        self._copies: dict[str, tuple[dict[int, _Stored], int]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._held_back: list[_Publication] = []
        self._away_until = 0.0

    @property
    def is_unreachable(self) -> bool:
        return self._world.loop.time() < self._away_until

    def go_away(self, seconds: float) -> None:
        self._away_until = self._world.loop.time() + seconds
        self._world.loop.call_at(self._away_until, self.come_back)

    def come_back(self) -> None:
        """Take what clients held back meanwhile; what they waited to hear of it went with the old connection."""
        self._away_until = 0.0
        held_back, self._held_back = self._held_back, []
        for each in held_back:
            if not each.process.is_alive:
                continue
            self._take(each)
            _fail(each, ConnectionError("the connection broke before the acknowledgement"))

    def demand(self) -> None:
        """Raise what a client raises when the bus is away."""
        if self.is_unreachable:
            raise ConnectionError("the bus is away")

    # For producers.

    def ensure(self, producer: str) -> StreamState:
        self.demand()
        stream = self._streams.setdefault(producer, _Stream())
        first = min(stream.messages, default=stream.last + 1)
        return StreamState(first, stream.last, [each for each in stream.deleted if each >= first])

    def publish(self, publication: _Publication) -> None:
        if self.is_unreachable:
            self._held_back.append(publication)
            return
        sequence = self._take(publication)
        if sequence is None or self._world.faults.happens("acknowledgement of a publication lost"):
            return
        publication.sequence.set_result(sequence)
        if self._world.faults.happens("crash between publication and mark"):
            self._world.loop.call_soon(publication.process.die)

    def _take(self, publication: _Publication) -> int | None:
        """Store an event and return its sequence; None when it is lost or refused."""
        loop, producer = self._world.loop, publication.process.service.name
        if self._world.faults.happens("message lost before it was stored"):
            return None
        stream = self._streams.get(producer)
        if stream is None:
            _fail(publication, BusError(_NOT_FOUND, "no stream took the event"))
            return None
        known = stream.known_ids.get(publication.message_id)
        if known is not None and loop.time() - known[1] < _DUPLICATE_WINDOW_SECONDS:
            sequence = known[0]
        elif publication.expected_last not in (None, stream.last):
            _fail(publication, BusError(_WRONG_LAST_SEQUENCE, f"wrong last sequence: {stream.last}"))
            return None
        else:
            sequence = stream.last = stream.last + 1
            stored = _Stored(publication.subject, publication.data, publication.message_id, loop.time())
            self._store(producer, stream, sequence, stored)
        self._world.trace("published", producer, publication.subject, sequence)
        return sequence

    def _store(self, producer: str, stream: _Stream, sequence: int, stored: _Stored) -> None:
        faults = self._world.faults
        stream.messages[sequence] = stored
        stream.known_ids[stored.message_id] = (sequence, self._world.loop.time())
        for consumer in stream.consumers.values():
            self._deliver(producer, consumer, sequence, stored)
        if faults.happens("message lost after acknowledgement"):
            self._remove(stream, sequence)

    def _remove(self, stream: _Stream, sequence: int) -> None:
        del stream.messages[sequence]
        if sequence < stream.last:
            stream.deleted.append(sequence)
        else:
            stream.deleted.append(sequence)
        for consumer in stream.consumers.values():
            consumer.waiting.pop(sequence, None)

    def _deliver(self, producer: str, consumer: _Consumer, sequence: int, stored: _Stored) -> None:
        if stored.subject not in consumer.subjects:
            return
        delay = self._random.uniform(0.001, 0.01)
        if self._world.faults.happens("message delayed"):
            delay = self._random.uniform(0.1, 20.0)
        elif self._world.faults.happens("message reordered"):
            delay = self._random.uniform(0.01, 0.5)
        consumer.waiting[sequence] = _Waiting(self._world.loop.time() + delay)
        self.news(producer).set()

    def news(self, producer: str) -> asyncio.Event:
        return self._news.setdefault(producer, asyncio.Event())

    # For those who hear.

    def ensure_consumer(self, producer: str, service: str, subjects: Sequence[str]) -> None:
        self.demand()
        stream = self._streams.get(producer)
        if stream is None:
            raise BusError(_NOT_FOUND, "stream not found")
        if service not in stream.consumers:
            consumer = stream.consumers[service] = _Consumer(frozenset(subjects))
            for sequence, stored in stream.messages.items():
                self._deliver(producer, consumer, sequence, stored)

    def fetch(self, process: "Process", producer: str) -> tuple[list[Delivery], float]:
        """Return what can be had now, and when there may be more."""
        self.demand()
        now, faults, service = self._world.loop.time(), self._world.faults, process.service.name
        stream = self._streams.get(producer)
        if stream is None or service not in stream.consumers:
            raise BusError(409, "consumer is gone")
        waiting = stream.consumers[service].waiting
        ready = sorted(sequence for sequence, each in waiting.items() if each.from_ <= now)
        if faults.has("message reordered") and faults.are_on:
            self._random.shuffle(ready)
        taken: list[Delivery] = []
        for sequence in ready[: self._random.randint(1, _BATCH)]:
            each = waiting[sequence]
            each.deliveries += 1
            each.from_ = now + _ACK_WAIT_SECONDS
            delivery = Delivery(process, producer, sequence, stream.messages[sequence], each.deliveries)
            taken.append(delivery)
            if faults.happens("message duplicated"):
                if self._random.random() < 0.5:
                    taken.append(delivery)
                else:
                    each.from_ = now + self._random.uniform(0.0, 3.0)
        if taken and faults.happens("deliveries lost on their way"):
            # The bus waits for their acknowledgement, and delivers them again long after those that come later.
            taken = []
        return taken, min((each.from_ for each in waiting.values()), default=float("inf"))

    def settle(self, process: "Process", producer: str, sequence: int, delay: float | None) -> None:
        """Take an acknowledgement, or a wish to get the message again after `delay`."""
        if not process.is_alive or self.is_unreachable:
            return
        if self._world.faults.happens("acknowledgement of a delivery lost"):
            return
        stream = self._streams.get(producer)
        consumer = stream.consumers.get(process.service.name) if stream else None
        if consumer is None or sequence not in consumer.waiting:
            return
        if delay is None:
            del consumer.waiting[sequence]
        else:
            consumer.waiting[sequence].from_ = self._world.loop.time() + delay
            self.news(producer).set()

    # Disasters.

    def wipe(self, producer: str) -> None:
        self._streams.pop(producer, None)

    def forget_consumer(self, producer: str, service: str) -> None:
        if producer in self._streams:
            self._streams[producer].consumers.pop(service, None)

    def copy(self) -> None:
        """Keep a copy to roll back to."""
        self._copies = {name: (dict(stream.messages), stream.last) for name, stream in self._streams.items()}

    def roll_back(self) -> None:
        """Put the copy in the place of what is there; its consumers are as old as it is, so they begin anew."""
        for name, (messages, last) in self._copies.items():
            if name not in self._streams:
                continue
            old = self._streams[name]
            fresh = self._streams[name] = _Stream(dict(messages), last)
            fresh.deleted = [each for each in old.deleted if each <= last]
            for sequence in fresh.deleted:
                fresh.messages.pop(sequence, None)
            fresh.known_ids = {each.message_id: (sequence, each.at) for sequence, each in fresh.messages.items()}
            for service, consumer in old.consumers.items():
                again = fresh.consumers[service] = _Consumer(consumer.subjects)
                for sequence, stored in fresh.messages.items():
                    self._deliver(name, again, sequence, stored)

    @property
    def producers(self) -> list[str]:
        return list(self._streams)

    def is_drained(self) -> bool:
        return all(not each.waiting for stream in self._streams.values() for each in stream.consumers.values())


def _fail(publication: _Publication, error: Exception) -> None:
    if not publication.sequence.done():
        publication.sequence.set_exception(error)
        publication.sequence.exception()  # nobody need ask


class BusOfProcess:
    """One process's connection to the bus: what `kernel.bus.Bus` is outside."""

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._bus = process.world.bus
        self.service = process.service.name

    @property
    def is_connected(self) -> bool:
        return not self._bus.is_unreachable

    async def ready(self) -> None:
        """It is there at once."""

    def on_reconnect(self, wake: Callable[[], None]) -> None:
        """Nothing is told; whoever waits looks by itself soon."""

    async def ensure_stream(self) -> StreamState:
        await self._process.lives_on("bus")
        return self._bus.ensure(self.service)

    async def publish(
        self, subject: str, message: bytes, message_id: str, expected_last: int | None = None
    ) -> "asyncio.Future[int]":
        await self._process.lives_on("bus")
        sequence: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._bus.publish(_Publication(self._process, subject, message, message_id, expected_last, sequence))
        return sequence

    async def on_republish_request(self, answer: Callable[[RepublishRequest], Awaitable[None]]) -> None:
        self._process.republish = answer

    async def request_republish(self, producer: str, request: RepublishRequest) -> None:
        self._bus.demand()
        self._process.world.ask_to_republish(producer, request)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the simulated bus has no {name}")
