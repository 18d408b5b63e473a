"""The bus: NATS JetStream, one stream per producer, one durable consumer per hearing service.

The bus is a cache of the producers' outboxes: whatever is missing on it (a stream, a consumer, messages) is made again.
JetStream is spoken by its wire API, which is a handful of JSON requests; `nats-py` keeps the connection.
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
# A stream outlives the outbox, so that a sequence below the stream's first one always means "lost", never "aged".
STREAM_RETENTION_SECONDS: Final = OUTBOX_RETENTION_SECONDS + 24 * 3600
_DUPLICATE_WINDOW_SECONDS: Final = 120
_MESSAGE_BYTES_MAX: Final = 64 * 1024
# Longer than any handler takes: what was delivered on a connection that is gone without a word comes again after this.
_ACK_WAIT_SECONDS: Final = 10
# A service pulls only what it can take. What waits for a missing event must not keep that very event away.
_UNACKNOWLEDGED_MAX: Final = -1
_API_TIMEOUT_SECONDS: Final = 5.0
_SECOND: Final = 1_000_000_000  # JetStream counts in nanoseconds
_STREAM_NOT_FOUND: Final = 10059


class Refused(Exception):
    """The bus answered a request with an error"""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


# The bus is away or answers with an error: try again later.
UNREACHABLE: Final = (Refused, nats.errors.Error, ConnectionError, TimeoutError, OSError)


class RepublishRequest(msgspec.Struct, frozen=True):
    """Asks a producer to publish an aggregate's events above a version once more."""

    aggregate: UUID
    above_version: int


class StreamState(msgspec.Struct, frozen=True):
    """What a stream holds: its first and last sequence, and the numbers missing in between."""

    first_seq: int
    last_seq: int
    deleted: list[int] = []


class _ApiError(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    error: _ApiError | None = None
    state: StreamState | None = None
    seq: int = 0


_ANSWER: Final = msgspec.json.Decoder(_Answer)


def _checked(message: bytes) -> _Answer:
    answer = _ANSWER.decode(message)
    if answer.error is not None:
        raise Refused(answer.error.err_code, answer.error.description)
    return answer


class Bus:
    """One service's connection to the bus; it reconnects by itself for ever."""

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
        """Connect in the background: a service starts, and serves, while the bus is away."""
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
                log.warning("bus is not reachable yet", extra={"service": self.service, "error": repr(error)})
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
            log.info("bus connection was already gone", extra={"service": self.service})

    async def _close_half_open(self) -> None:
        """Close what the client leaves open when it is cancelled before it is connected; it has no word for that."""
        half_open: Any = self._client._transport  # noqa: SLF001
        if half_open is not None:
            half_open.close()
            await half_open.wait_closed()

    async def ready(self) -> None:
        """Wait until the first connection stands."""
        assert self._connecting is not None
        await asyncio.shield(self._connecting)

    @property
    def is_connected(self) -> bool:
        return self._client.is_connected

    def on_reconnect(self, wake: Callable[[], None]) -> None:
        """Call `wake` each time a lost connection stands again."""
        self._on_reconnect.append(wake)

    async def _error(self, error: Exception) -> None:
        # While the bus is away the same error comes several times a second: once is enough to know.
        level = logging.DEBUG if repr(error) == self._last_error else logging.WARNING
        self._last_error = repr(error)
        log.log(level, "bus reports an error", extra={"service": self.service, "error": repr(error)})

    async def _reconnected(self) -> None:
        self._last_error = ""
        log.info("bus is back", extra={"service": self.service})
        # Their answers went with the old connection: what was stored all the same is known again by its message id.
        for waiting in list(self._acks.values()):
            if not waiting.done():
                waiting.set_exception(ConnectionError("the connection broke before the acknowledgement"))
        for wake in self._on_reconnect:
            wake()

    async def _ask(self, subject: str, request: object) -> _Answer:
        answer = await self._client.request(subject, msgspec.json.encode(request), timeout=_API_TIMEOUT_SECONDS)
        return _checked(answer.data)

    # What a producer needs.

    async def ensure_stream(self) -> StreamState:
        """Return the state of this service's own stream, which is made first where it is missing."""
        try:
            answer = await self._ask(f"$JS.API.STREAM.INFO.{self.service}", {"deleted_details": True})
        except Refused as refused:
            if refused.code != _STREAM_NOT_FOUND:
                raise
            log.warning("stream is missing and is made", extra={"service": self.service})
            answer = await self._ask(
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
        assert answer.state is not None
        return answer.state

    async def publish(
        self, subject: str, message: bytes, message_id: str, expected_last: int | None = None
    ) -> "asyncio.Future[int]":
        """Send one event; the returned future holds the sequence at which the stream stored it, or raises Refused.

        What the stream knows by its message id keeps the sequence it has. Anything else is refused, where
        `expected_last` is given, unless that is the last sequence the stream gave out. Events are stored in the order
        of the calls. Nothing times out here: the caller bounds its wait.
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
            future.set_exception(Refused(_STREAM_NOT_FOUND, "no stream took the event"))
            return
        try:
            answer = _checked(message.data)
        except Refused as refused:
            future.set_exception(refused)
        else:
            future.set_result(answer.seq)

    async def on_republish_request(self, answer: Callable[[RepublishRequest], Awaitable[None]]) -> None:
        """Answer other services that miss events of an aggregate of this one."""

        async def received(message: Msg) -> None:
            await answer(msgspec.json.decode(message.data, type=RepublishRequest))

        await self._client.subscribe(f"republish.{self.service}", queue=self.service, cb=received)

    # What a hearing service needs.

    async def request_republish(self, producer: str, request: RepublishRequest) -> None:
        """Ask a producer to publish an aggregate again; no answer is awaited, the events come by the stream."""
        await self._client.publish(f"republish.{producer}", msgspec.json.encode(request))

    async def ensure_consumer(self, producer: str, subjects: Sequence[str]) -> None:
        """Make or update this service's consumer on a producer's stream; raises Refused while that is missing."""
        await self._ask(
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
        """Subscribe to plain messages: pulled events, or all events as they pass by."""
        return await self._client.subscribe(subject, cb=received, pending_msgs_limit=-1, pending_bytes_limit=-1)

    async def pull(self, producer: str, reply: str, *, messages_max: int, expires_seconds: int) -> None:
        """Ask for up to `messages_max` events, delivered to `reply` as they come until the request expires.

        While there are none, a heartbeat comes every second: silence means the request is lost.
        """
        request = {"batch": messages_max, "expires": expires_seconds * _SECOND, "idle_heartbeat": _SECOND}
        await self._client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{producer}.{self.service}", msgspec.json.encode(request), reply=reply
        )

    def new_inbox(self) -> str:
        return self._client.new_inbox()

    async def request(self, subject: str, request: Any) -> dict[str, Any]:
        """Send a raw request of the JetStream API and return the decoded answer; operations and tests use this."""
        answer = await self._client.request(subject, msgspec.json.encode(request), timeout=_API_TIMEOUT_SECONDS)
        decoded: dict[str, Any] = msgspec.json.decode(answer.data)
        return decoded
