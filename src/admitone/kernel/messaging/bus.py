"""The bus: NATS JetStream, one stream per producer, one durable consumer per subscribing service.

The bus is a cache of the producers' outboxes: a missing stream, consumer or message is created again.

Streams and consumers are managed by nats-py's JetStream API. Publishing and pulling use JetStream's wire API instead:
`publish_async` has 30 % less throughput and never fails an acknowledgement that a reconnect lost, and `fetch` waits
until its batch is full. Source: NATS documentation, "JetStream wire API reference".
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamManager
from nats.js.api import ConsumerConfig, DiscardPolicy, StreamConfig
from nats.js.errors import APIError, NotFoundError

from admitone.kernel import clock
from admitone.kernel.addresses import address_of, reason_of
from admitone.kernel.tasks import end

log = logging.getLogger(__name__)

OUTBOX_RETENTION_SECONDS: Final = 7 * 24 * 3600
# Longer than the outbox, so that a sequence below the stream's first one always means "lost", never "expired".
STREAM_RETENTION_SECONDS: Final = OUTBOX_RETENTION_SECONDS + 24 * 3600
_DUPLICATE_WINDOW_SECONDS: Final = 120
_MESSAGE_BYTES_MAX: Final = 64 * 1024
# Longer than any handler takes: events delivered on a dead connection are delivered again after this.
_ACK_WAIT_SECONDS: Final = 10
# No limit: a service pulls only what it can handle, and events that wait must not block the event they wait for.
_UNACKNOWLEDGED_MAX: Final = -1
_API_TIMEOUT_SECONDS: Final = 5.0
_SECOND: Final = 1_000_000_000  # JetStream counts in nanoseconds

# The bus responded with an error.
BusError = APIError

# The bus is unreachable or responds with an error: retry later.
UNREACHABLE: Final = (nats.errors.Error, ConnectionError, TimeoutError, OSError)


class RepublishRequest(msgspec.Struct, frozen=True):
    """Asks a producer to publish an aggregate's events above a version again."""

    aggregate: UUID
    above_version: int


class StreamState(msgspec.Struct, frozen=True):
    """A stream's first and last sequence, the sequences missing in between, and its size."""

    first_seq: int
    last_seq: int
    deleted: list[int] = []
    bytes: int = 0


class StoredMessage(msgspec.Struct, frozen=True):
    """A message in this service's own stream."""

    sequence: int
    message_id: str
    data: bytes


class _Response(msgspec.Struct):
    """The parts of JetStream's responses that are used here."""

    error: dict[str, Any] | None = None
    state: StreamState | None = None
    seq: int = 0


_PORT: Final = 4222
_TRY_SECONDS: Final = 3.0


async def connection_problem(url: str) -> str:
    """Connect once; return why that fails, with the address of the server, or an empty text."""
    reported: list[Exception] = []

    async def report(error: Exception) -> None:
        reported.append(error)

    client = Client()
    try:
        async with asyncio.timeout(_TRY_SECONDS):
            await client.connect(url, allow_reconnect=False, error_cb=report)
            await client.close()
    except UNREACHABLE as error:
        # The client raises what it gave up with, which is not always why.
        return f"NATS at {address_of(url, _PORT)} cannot be reached: {reason_of([*reported, error][0])}"
    return ""


def _decoded(message: Msg) -> _Response:
    response = msgspec.json.decode(message.data, type=_Response)
    if response.error is not None:
        APIError.from_error(response.error)
    return response


class Bus:
    """One service's connection to the bus; it reconnects by itself forever."""

    # How long after an outage the events that waited for its end may take to arrive: a producer's relay and a
    # consumer each may wait once for a response that was lost with the outage.
    catch_up_seconds = 3 * _API_TIMEOUT_SECONDS

    def __init__(self, service: str, *, replicas: int = 1, stream_bytes_max: int = 0) -> None:
        """`stream_bytes_max` limits the size of the service's stream; 0 is no limit."""
        self.service = service
        self._replicas = replicas
        self.stream_bytes_max = stream_bytes_max
        self._client = Client()
        self.jetstream: Final[JetStreamManager] = self._client.jsm(timeout=_API_TIMEOUT_SECONDS)
        self._connecting: asyncio.Task[None] | None = None
        self._on_reconnect: list[Callable[[], None]] = []
        self._acks_inbox: str | None = None
        self._acks: dict[str, asyncio.Future[int]] = {}
        self._published = 0
        self._last_error = ""
        self._connected_at = float("inf")
        self._address = ""

    def start(self, url: str) -> None:
        """Connect in the background: a service starts and serves while the bus is unreachable."""
        self._address = address_of(url, _PORT)
        self._connecting = asyncio.create_task(self._connect(url), name=f"{self.service}: connect to the bus")

    async def _connect(self, url: str) -> None:
        """Connect; nats-py retries until it succeeds."""
        await self._client.connect(
            url,
            name=self.service,
            inbox_prefix=f"_INBOX_{self.service}".encode(),
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.25,  # type: ignore[arg-type]  # it sleeps for fractions, too
            ping_interval=5,
            max_outstanding_pings=2,
            connect_timeout=2,
            error_cb=self._error,
            reconnected_cb=self._reconnected,
        )
        self._connected_at = clock.monotonic_seconds()

    async def close(self) -> None:
        if self._connecting is not None:
            await end([self._connecting])
        client = self._client
        try:
            if client.is_connected or client.is_connecting or client.is_reconnecting:
                async with asyncio.timeout(2):
                    await client.close()
        except UNREACHABLE:
            log.info("the bus connection was already closed", extra={"service": self.service})

    async def ready(self) -> None:
        """Wait for the first connection."""
        assert self._connecting is not None
        await asyncio.shield(self._connecting)

    @property
    def is_connected(self) -> bool:
        return self._client.is_connected

    @property
    def is_caught_up(self) -> bool:
        """Whether the connection has been there for so long that what was published during an outage has arrived."""
        return self.is_connected and clock.monotonic_seconds() - self._connected_at >= self.catch_up_seconds

    def on_reconnect(self, wake: Callable[[], None]) -> None:
        """Call `wake` after each reconnect."""
        self._on_reconnect.append(wake)

    async def _error(self, error: Exception) -> None:
        # During an outage the same error is reported several times a second: log it once.
        level = logging.DEBUG if repr(error) == self._last_error else logging.WARNING
        self._last_error = repr(error)
        extra = {"service": self.service, "address": self._address, "error": repr(error)}
        log.log(level, "the bus client reports an error", extra=extra)

    async def _reconnected(self) -> None:
        self._last_error = ""
        self._connected_at = clock.monotonic_seconds()
        log.info("the bus is connected again", extra={"service": self.service})
        # Their acknowledgements were lost with the connection; messages stored all the same are deduplicated by id.
        for waiting in list(self._acks.values()):
            if not waiting.done():
                waiting.set_exception(ConnectionError("the connection was lost before the acknowledgement"))
        for wake in self._on_reconnect:
            wake()

    # For producers.

    async def ensure_stream(self) -> StreamState:
        """Return the state of this service's stream; create it if it is missing."""
        try:
            return await self._stream_state()
        except NotFoundError:
            log.warning("the stream is missing and is created", extra={"service": self.service})
        stream = StreamConfig(
            name=self.service,
            subjects=[f"events.{self.service}.>"],
            max_age=STREAM_RETENTION_SECONDS,
            max_bytes=self.stream_bytes_max or -1,
            # A full stream refuses events, which wait in the outbox. By default it would delete the oldest, even if
            # nobody has consumed them, and the relay would take them for lost and publish them again, without end.
            discard=DiscardPolicy.NEW,
            max_msg_size=_MESSAGE_BYTES_MAX,
            duplicate_window=_DUPLICATE_WINDOW_SECONDS,
            num_replicas=self._replicas,
        )
        await self.jetstream.add_stream(stream)
        return await self._stream_state()

    async def _stream_state(self) -> StreamState:
        # nats-py's stream_info cannot request the missing sequences.
        request = msgspec.json.encode({"deleted_details": True})
        subject = f"$JS.API.STREAM.INFO.{self.service}"
        response = _decoded(await self._client.request(subject, request, timeout=_API_TIMEOUT_SECONDS))
        assert response.state is not None
        return response.state

    async def consumed_sequence(self, state: StreamState, consumers: Iterable[str]) -> int:
        """Return the sequence up to which every consumer has acknowledged all that it subscribes to.

        `state` is a state read before. 0 if one of `consumers` does not exist: it will need everything.
        """
        found = {each.name: each for each in await self.jetstream.consumers_info(self.service)}
        if not found.keys() >= set(consumers):
            return 0
        # The floor of a consumer that has nothing left stays at its last event, however many of other types follow.
        return min(
            (
                state.last_seq
                if not each.num_pending and not each.num_ack_pending
                else (each.ack_floor.stream_seq if each.ack_floor else 0)
                for each in found.values()
            ),
            default=state.last_seq,
        )

    async def remove_events(self, until: int) -> None:
        """Remove the events of this service's stream up to a sequence."""
        await self.jetstream.purge_stream(self.service, seq=until + 1)

    async def stored(self, sequence: int | None = None) -> StoredMessage | None:
        """Return the first message of this service's stream from a sequence on, or the last one; None without any."""
        own = f"events.{self.service}.>"
        try:
            if sequence is None:
                found = await self.jetstream.get_last_msg(self.service, own)
            else:
                found = await self.jetstream.get_msg(self.service, max(sequence, 1), own, next=True)
        except NotFoundError:
            return None
        assert found.seq is not None
        return StoredMessage(found.seq, (found.headers or {}).get("Nats-Msg-Id", ""), found.data or b"")

    async def publish(
        self, subject: str, message: bytes, message_id: str, expected_last: int | None = None
    ) -> "asyncio.Future[int]":
        """Send one event; the returned future resolves to its stream sequence, or raises BusError.

        A message id the stream knows keeps its sequence. With `expected_last`, any other message is refused unless
        that is the stream's last sequence. Events are stored in the order of the calls. The future has no time-out:
        the caller bounds its wait.
        """
        if self._acks_inbox is None:
            self._acks_inbox = self._client.new_inbox()
            await self._client.subscribe(f"{self._acks_inbox}.*", cb=self._acknowledged)
        self._published += 1
        reply = f"{self._acks_inbox}.{self._published}"
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._acks[reply] = future
        future.add_done_callback(lambda _: self._acks.pop(reply, None))
        headers = {"Nats-Msg-Id": message_id, "Nats-Expected-Stream": self.service}
        if expected_last is not None:
            headers["Nats-Expected-Last-Sequence"] = str(expected_last)
        await self._client.publish(subject, message, reply=reply, headers=headers)
        return future

    async def _acknowledged(self, message: Msg) -> None:
        future = self._acks.get(message.subject)
        if future is None or future.done():
            return
        if message.headers and message.headers.get("Status"):
            future.set_exception(NotFoundError(description="no stream stored the event"))
            return
        try:
            future.set_result(_decoded(message).seq)
        except APIError as error:
            future.set_exception(error)

    async def on_republish_request(self, republish: Callable[[RepublishRequest], Awaitable[None]]) -> None:
        """Call `republish` when another service misses events of one of this service's aggregates."""

        async def received(message: Msg) -> None:
            await republish(msgspec.json.decode(message.data, type=RepublishRequest))

        await self._client.subscribe(f"republish.{self.service}", queue=self.service, cb=received)

    # For consumers.

    async def request_republish(self, producer: str, request: RepublishRequest) -> None:
        """Ask a producer to publish an aggregate again; the events arrive by the stream, there is no response."""
        await self._client.publish(f"republish.{producer}", msgspec.json.encode(request))

    async def ensure_consumer(self, producer: str, subjects: Sequence[str]) -> None:
        """Create or update this service's consumer on a producer's stream; raises BusError without that stream."""
        consumer = ConsumerConfig(
            durable_name=self.service,
            filter_subjects=list(subjects),
            ack_wait=_ACK_WAIT_SECONDS,
            max_deliver=-1,
            max_ack_pending=_UNACKNOWLEDGED_MAX,
        )
        await self.jetstream.add_consumer(producer, consumer)

    async def delete_consumer(self, producer: str) -> None:
        """Delete this service's consumer on a producer's stream: the next one begins with the oldest event."""
        try:
            await self.jetstream.delete_consumer(producer, self.service)
        except NotFoundError:
            log.info("there is no consumer to delete", extra={"service": self.service, "producer": producer})

    async def subscribe(self, subject: str, received: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Subscribe to plain messages: pulled events, or every event as it is published."""
        return await self._client.subscribe(subject, cb=received, pending_msgs_limit=-1, pending_bytes_limit=-1)

    async def pull(self, producer: str, reply: str, *, messages_max: int, expires_seconds: int) -> None:
        """Request up to `messages_max` events, delivered to `reply` as they arrive until the request expires.

        A heartbeat arrives every second without events: silence means the request was lost.
        """
        request = {"batch": messages_max, "expires": expires_seconds * _SECOND, "idle_heartbeat": _SECOND}
        await self._client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{producer}.{self.service}", msgspec.json.encode(request), reply=reply
        )

    def new_inbox(self) -> str:
        return self._client.new_inbox()
