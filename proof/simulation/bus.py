"""A bus with JetStream's promises and its failures: streams, durable consumers, redelivery and loss."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

from admitone.kernel.messaging.bus import BusError, RepublishRequest, StreamState

if TYPE_CHECKING:
    from proof.simulation.processes import Process
    from proof.simulation.world import World

# As of the real connection, which tests make shorter.
_CATCH_UP_SECONDS: Final = 15.0
_NOT_FOUND: Final = 10059
_WRONG_LAST_SEQUENCE: Final = 10071
# Longer than the real bus waits: the later an event is delivered again, the more has changed meanwhile.
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

    deliver_from: float
    deliveries: int = 0


@dataclass
class _Consumer:
    subjects: frozenset[str]
    waiting: dict[int, _Waiting] = field(default_factory=dict)


@dataclass
class _Stream:
    arrival: asyncio.Event
    messages: dict[int, _Stored] = field(default_factory=dict)
    last: int = 0
    deleted: list[int] = field(default_factory=list)
    known_ids: dict[str, tuple[int, float]] = field(default_factory=dict)
    consumers: dict[str, _Consumer] = field(default_factory=dict)


@dataclass(frozen=True)
class _Publication:
    """What a process publishes, and the future of its sequence."""

    process: "Process"
    subject: str
    data: bytes
    message_id: str
    expected_last: int | None
    sequence: "asyncio.Future[int]"

    def fail(self, error: Exception) -> None:
        if not self.sequence.done():
            self.sequence.set_exception(error)
            self.sequence.exception()  # it need not be retrieved


class Delivery:
    """A message as a consumer receives it."""

    reply = "$JS.ACK"
    headers = None

    def __init__(self, process: "Process", producer: str, sequence: int, stored: _Stored, deliveries: int) -> None:
        self._message = process, producer, sequence
        self.subject = stored.subject
        self.data = stored.data
        numbers = SimpleNamespace(stream=sequence)
        self.metadata = SimpleNamespace(stream=producer, sequence=numbers, num_delivered=deliveries)

    async def ack(self) -> None:
        self._message[0].world.bus.acknowledge(*self._message, None)

    async def nak(self, delay: float | None = None) -> None:
        self._message[0].world.bus.acknowledge(*self._message, delay or 0.0)


class SimulatedBus:
    """All streams of the marketplace."""

    def __init__(self, world: "World", random: Random) -> None:
        self._world = world
        self._random = random
        self._streams: dict[str, _Stream] = {}
        self._copies: dict[str, tuple[dict[int, _Stored], int]] = {}
        self._arrivals: dict[str, asyncio.Event] = {}
        self._held_back: list[_Publication] = []
        self._away_until = 0.0
        self._coming_back: asyncio.TimerHandle | None = None
        self._back_at = float("-inf")

    @property
    def producers(self) -> list[str]:
        return list(self._streams)

    @property
    def is_unreachable(self) -> bool:
        return self._world.loop.time() < self._away_until

    @property
    def is_caught_up(self) -> bool:
        return not self.is_unreachable and self._world.loop.time() - self._back_at >= _CATCH_UP_SECONDS

    def require(self) -> None:
        """Raise what a client raises while the bus is unreachable."""
        if self.is_unreachable:
            raise ConnectionError("the bus is unreachable")

    def is_drained(self) -> bool:
        return self.is_caught_up and all(
            not each.waiting for stream in self._streams.values() for each in stream.consumers.values()
        )

    # For producers.

    def ensure_stream(self, producer: str) -> StreamState:
        self.require()
        stream = self._streams.setdefault(producer, _Stream(self.arrival(producer)))
        first = min(stream.messages, default=stream.last + 1)
        return StreamState(first, stream.last, [each for each in stream.deleted if each >= first])

    def publish(self, publication: _Publication) -> None:
        if self.is_unreachable:
            self._held_back.append(publication)
            return
        sequence = self._take(publication)
        if sequence is None or self._world.faults.strikes("acknowledgement of a publication lost"):
            return
        publication.sequence.set_result(sequence)
        if self._world.faults.strikes("crash between publication and mark"):
            self._world.loop.call_soon(publication.process.die)

    def _take(self, publication: _Publication) -> int | None:
        """Store an event and return its sequence; None if it is lost or refused."""
        now, producer = self._world.loop.time(), publication.process.service.name
        if self._world.faults.strikes("message lost before it was stored"):
            return None
        stream = self._streams.get(producer)
        if stream is None:
            publication.fail(BusError(code=404, err_code=_NOT_FOUND, description="no stream took the event"))
            return None
        known = stream.known_ids.get(publication.message_id)
        if known is not None and now - known[1] < _DUPLICATE_WINDOW_SECONDS:
            sequence = known[0]
        elif publication.expected_last not in (None, stream.last):
            description = f"wrong last sequence: {stream.last}"
            publication.fail(BusError(code=400, err_code=_WRONG_LAST_SEQUENCE, description=description))
            return None
        else:
            sequence = stream.last = stream.last + 1
            self._store(stream, sequence, _Stored(publication.subject, publication.data, publication.message_id, now))
        self._world.trace("published", producer, publication.subject, sequence)
        return sequence

    def _store(self, stream: _Stream, sequence: int, stored: _Stored) -> None:
        stream.messages[sequence] = stored
        stream.known_ids[stored.message_id] = (sequence, stored.at)
        for consumer in stream.consumers.values():
            self._enqueue(stream, consumer, sequence, stored)
        if self._world.faults.strikes("message lost after acknowledgement"):
            del stream.messages[sequence]
            stream.deleted.append(sequence)
            for consumer in stream.consumers.values():
                consumer.waiting.pop(sequence, None)

    def _enqueue(self, stream: _Stream, consumer: _Consumer, sequence: int, stored: _Stored) -> None:
        if stored.subject not in consumer.subjects:
            return
        delay_seconds = self._random.uniform(0.001, 0.01)
        if self._world.faults.strikes("message delayed"):
            delay_seconds = self._random.uniform(0.1, 20.0)
        elif self._world.faults.strikes("message reordered"):
            delay_seconds = self._random.uniform(0.01, 0.5)
        consumer.waiting[sequence] = _Waiting(self._world.loop.time() + delay_seconds)
        stream.arrival.set()

    # For consumers.

    def arrival(self, producer: str) -> asyncio.Event:
        """Return the event that is set when a producer's stream has something to deliver."""
        return self._arrivals.setdefault(producer, asyncio.Event())

    def ensure_consumer(self, producer: str, service: str, subjects: Sequence[str]) -> None:
        self.require()
        stream = self._streams.get(producer)
        if stream is None:
            raise BusError(code=404, err_code=_NOT_FOUND, description="stream not found")
        if service in stream.consumers:
            # What arrived before is not delivered to those who subscribe now.
            stream.consumers[service].subjects = frozenset(subjects)
        else:
            self._add_consumer(stream, service, frozenset(subjects))

    def _add_consumer(self, stream: _Stream, service: str, subjects: frozenset[str]) -> None:
        consumer = stream.consumers[service] = _Consumer(subjects)
        for sequence, stored in stream.messages.items():
            self._enqueue(stream, consumer, sequence, stored)

    def fetch(self, process: "Process", producer: str) -> tuple[list[Delivery], float]:
        """Return what can be delivered now, and when there may be more."""
        self.require()
        now, faults, service = self._world.loop.time(), self._world.faults, process.service.name
        stream = self._streams.get(producer)
        if stream is None or service not in stream.consumers:
            raise BusError(code=409, description="consumer is gone")
        waiting = stream.consumers[service].waiting
        ready = sorted(sequence for sequence, each in waiting.items() if each.deliver_from <= now)
        if faults.has("message reordered") and faults.are_on:
            self._random.shuffle(ready)
        deliveries: list[Delivery] = []
        for sequence in ready[: self._random.randint(1, _BATCH)]:
            each = waiting[sequence]
            each.deliveries += 1
            each.deliver_from = now + _ACK_WAIT_SECONDS
            deliveries.append(Delivery(process, producer, sequence, stream.messages[sequence], each.deliveries))
            if faults.strikes("message duplicated"):
                if self._random.random() < 0.5:
                    deliveries.append(deliveries[-1])
                else:
                    each.deliver_from = now + self._random.uniform(0.0, 3.0)
        if deliveries and faults.strikes("deliveries lost on their way"):
            # The bus waits for their acknowledgement, and delivers them again long after those that follow.
            deliveries = []
        return deliveries, min((each.deliver_from for each in waiting.values()), default=float("inf"))

    def acknowledge(self, process: "Process", producer: str, sequence: int, delay_seconds: float | None) -> None:
        """Take an acknowledgement, or a request to deliver the message again after a delay."""
        if not process.is_alive or self.is_unreachable:
            return
        if self._world.faults.strikes("acknowledgement of a delivery lost"):
            return
        stream = self._streams.get(producer)
        consumer = stream.consumers.get(process.service.name) if stream else None
        if stream is None or consumer is None or sequence not in consumer.waiting:
            return
        if delay_seconds is None:
            del consumer.waiting[sequence]
        else:
            consumer.waiting[sequence].deliver_from = self._world.loop.time() + delay_seconds
            stream.arrival.set()

    # Disasters.

    def go_away(self, seconds: float) -> None:
        """Be unreachable for so long; an outage that lasts longer goes on."""
        self._away_until = max(self._away_until, self._world.loop.time() + seconds)
        if self._coming_back is not None:
            self._coming_back.cancel()
        self._coming_back = self._world.loop.call_at(self._away_until, self._come_back)

    def _come_back(self) -> None:
        """Take what clients held back meanwhile; its acknowledgements are lost with the old connection."""
        self._away_until, self._back_at = 0.0, self._world.loop.time()
        held_back, self._held_back = self._held_back, []
        for each in held_back:
            if each.process.is_alive:
                self._take(each)
                each.fail(ConnectionError("the connection broke before the acknowledgement"))

    def wipe(self, producer: str) -> None:
        self._streams.pop(producer, None)

    def forget_consumer(self, producer: str, service: str) -> None:
        if producer in self._streams:
            self._streams[producer].consumers.pop(service, None)

    def copy(self) -> None:
        """Keep a copy to roll back to."""
        self._copies = {name: (dict(stream.messages), stream.last) for name, stream in self._streams.items()}

    def roll_back(self) -> None:
        """Replace each stream by its copy; its consumers are as old as it is, so they begin again."""
        for name, (copied, last) in self._copies.items():
            if name not in self._streams:
                continue
            old = self._streams[name]
            deleted = [each for each in old.deleted if each <= last]
            messages = {sequence: each for sequence, each in copied.items() if sequence not in deleted}
            known_ids = {each.message_id: (sequence, each.at) for sequence, each in messages.items()}
            stream = self._streams[name] = _Stream(old.arrival, messages, last, deleted, known_ids)
            for service, consumer in old.consumers.items():
                self._add_consumer(stream, service, consumer.subjects)


class SimulatedBusConnection:
    """One process's connection to the bus: `kernel.messaging.bus.Bus`, as far as relay and inbox use one."""

    # The simulated streams have no limit: what a service has not consumed is never removed, and the rest has no effect.
    stream_bytes_max = 0

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._bus = process.world.bus
        self.service = process.service.name

    @property
    def is_caught_up(self) -> bool:
        return self._bus.is_caught_up

    async def ready(self) -> None:
        """It is there at once."""

    def on_reconnect(self, _wake: Callable[[], None]) -> None:
        """Nothing is called: relays and consumers poll."""

    async def ensure_stream(self) -> StreamState:
        await self._process.stay_alive()
        return self._bus.ensure_stream(self.service)

    async def publish(
        self, subject: str, message: bytes, message_id: str, expected_last: int | None = None
    ) -> "asyncio.Future[int]":
        await self._process.stay_alive()
        sequence: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._bus.publish(_Publication(self._process, subject, message, message_id, expected_last, sequence))
        return sequence

    async def ensure_consumer(self, producer: str, subjects: Sequence[str]) -> None:
        await self._process.stay_alive()
        self._bus.ensure_consumer(producer, self.service, subjects)

    async def on_republish_request(self, respond: Callable[[RepublishRequest], Awaitable[None]]) -> None:
        self._process.republish = respond

    async def request_republish(self, producer: str, request: RepublishRequest) -> None:
        self._bus.require()
        self._process.world.request_republish(producer, request)
