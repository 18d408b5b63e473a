"""The bus: NATS JetStream, one stream per producer, one durable consumer per subscribing service.

The bus is a cache of the producers' outboxes: a missing stream, consumer or message is created again. The code uses
JetStream's wire API, a handful of JSON requests; `nats-py` maintains the connection.
Source: NATS documentation, "JetStream wire API reference".
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

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
_STREAM_NOT_FOUND: Final = 10059


class BusError(Exception):
    """The bus responded with an error"""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


# The bus is unreachable or responds with an error: retry later.
UNREACHABLE: Final = (BusError, nats.errors.Error, ConnectionError, TimeoutError, OSError)


class RepublishRequest(msgspec.Struct, frozen=True):
    """Asks a producer to publish an aggregate's events above a version again."""

    aggregate: UUID
    above_version: int


class StreamState(msgspec.Struct, frozen=True):
    """A stream's first and last sequence, and the sequences missing in between."""

    first_seq: int
    last_seq: int
    deleted: list[int] = []


class _ApiError(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _ApiResponse(msgspec.Struct):
    error: _ApiError | None = None
    state: StreamState | None = None
    seq: int = 0


_API_RESPONSE: Final = msgspec.json.Decoder(_ApiResponse)


def _checked(message: bytes) -> _ApiResponse:
    response = _API_RESPONSE.decode(message)
    if response.error is not None:
        raise BusError(response.error.err_code, response.error.description)
    return response


class Bus:
    """One service's connection to the bus; it reconnects by itself forever."""

    def __init__(self, service: str, *, replicas: int = 1) -> None:
        self.service = service
        self._replicas = replicas
        self._client = Client()
        self._connecting: asyncio.Task[None] | None = None
        self._on_reconnect: list[Callable[[], None]] = []
        self._acks_inbox: str | None = None
        self._acks: dict[str, asyncio.Future[int]] = {}
        self._published = 0
        self._last_error = ""

    def start(self, url: str) -> None:
        """Connect in the background: a service starts and serves while the bus is unreachable."""
        self._connecting = asyncio.create_task(self._connect(url), name=f"{self.service}: connect to the bus")

    async def _connect(self, url: str) -> None:
        delay_seconds = 0.05
        while True:
            try:
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
            except UNREACHABLE as error:
                log.warning("the bus is not reachable yet", extra={"service": self.service, "error": repr(error)})
                await asyncio.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, 2.0)
            else:
                return

    async def close(self) -> None:
        if self._connecting is not None:
            await end([self._connecting])
        try:
            async with asyncio.timeout(2):
                if self._client.is_connected or self._client.is_reconnecting:
                    await self._client.close()
                else:
                    await self._close_half_open()
        except UNREACHABLE:
            log.info("the bus connection was already closed", extra={"service": self.service})

    async def _close_half_open(self) -> None:
        """Close the socket the client leaves open if it is cancelled while connecting; it has no public way to do so."""
        half_open: Any = self._client._transport  # noqa: SLF001
        if half_open is not None:
            half_open.close()
            await half_open.wait_closed()

    async def ready(self) -> None:
        """Wait for the first connection."""
        assert self._connecting is not None
        await asyncio.shield(self._connecting)

    @property
    def is_connected(self) -> bool:
        return self._client.is_connected

    def on_reconnect(self, wake: Callable[[], None]) -> None:
        """Call `wake` after each reconnect."""
        self._on_reconnect.append(wake)

    async def _error(self, error: Exception) -> None:
        # During an outage the same error is reported several times a second: log it once.
        level = logging.DEBUG if repr(error) == self._last_error else logging.WARNING
        self._last_error = repr(error)
        log.log(level, "the bus client reports an error", extra={"service": self.service, "error": repr(error)})

    async def _reconnected(self) -> None:
        self._last_error = ""
        log.info("the bus is connected again", extra={"service": self.service})
        # Their acknowledgements were lost with the connection; messages stored all the same are deduplicated by id.
        for waiting in list(self._acks.values()):
            if not waiting.done():
                waiting.set_exception(ConnectionError("the connection was lost before the acknowledgement"))
        for wake in self._on_reconnect:
            wake()

    async def _request(self, subject: str, request: object) -> _ApiResponse:
        response = await self._client.request(subject, msgspec.json.encode(request), timeout=_API_TIMEOUT_SECONDS)
        return _checked(response.data)

    # For producers.

    async def ensure_stream(self) -> StreamState:
        """Return the state of this service's stream; create it if it is missing."""
        try:
            response = await self._request(f"$JS.API.STREAM.INFO.{self.service}", {"deleted_details": True})
        except BusError as error:
            if error.code != _STREAM_NOT_FOUND:
                raise
            log.warning("the stream is missing and is created", extra={"service": self.service})
            response = await self._request(
                f"$JS.API.STREAM.CREATE.{self.service}",
                {
                    "name": self.service,
                    "subjects": [f"events.{self.service}.>"],
                    "retention": "limits",
                    "storage": "file",
                    "discard": "old",
                    "max_age": STREAM_RETENTION_SECONDS * _SECOND,
                    "max_msg_size": _MESSAGE_BYTES_MAX,
                    "duplicate_window": _DUPLICATE_WINDOW_SECONDS * _SECOND,
                    "num_replicas": self._replicas,
                },
            )
        assert response.state is not None
        return response.state

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
            future.set_exception(BusError(_STREAM_NOT_FOUND, "no stream stored the event"))
            return
        try:
            response = _checked(message.data)
        except BusError as error:
            future.set_exception(error)
        else:
            future.set_result(response.seq)

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
        await self._request(
            f"$JS.API.CONSUMER.DURABLE.CREATE.{producer}.{self.service}",
            {
                "stream_name": producer,
                "config": {
                    "durable_name": self.service,
                    "filter_subjects": list(subjects),
                    "deliver_policy": "all",
                    "ack_policy": "explicit",
                    "ack_wait": _ACK_WAIT_SECONDS * _SECOND,
                    "max_deliver": -1,
                    "max_ack_pending": _UNACKNOWLEDGED_MAX,
                },
            },
        )

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

    async def request(self, subject: str, request: Any) -> dict[str, Any]:
        """Send a raw JetStream API request and return the decoded response; for metrics, commands and tests."""
        response = await self._client.request(subject, msgspec.json.encode(request), timeout=_API_TIMEOUT_SECONDS)
        decoded: dict[str, Any] = msgspec.json.decode(response.data)
        return decoded
