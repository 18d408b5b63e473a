"""A lean HTTP/1.1 client for programs that ask the same few servers very often: kept connections, bounded waits.

A request costs a tenth of what it does through a general client, which matters where a purchase takes several.
Source: RFC 9112; the parser is the one the server side uses.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from admitone.kernel import clock

_BODY_BYTES_MAX: Final = 16 * 1024 * 1024
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_INFORMATIONAL: Final = range(100, 200)

Origin = tuple[str, str, int]


class Unreachable(ConnectionError):
    """The server did not answer, or not in time: what it did with the request is not known"""


class _Closed(Unreachable):
    """The connection ended before any part of an answer came"""


@dataclass(frozen=True)
class Reply:
    """A whole response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


@dataclass
class _Incoming:
    """A response while it arrives."""

    reply: asyncio.Future[Reply]
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    has_begun: bool = False


class _Connection(asyncio.Protocol):
    """One connection, for one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._incoming: _Incoming | None = None
        self.is_open = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    async def ask(self, request: bytes) -> Reply:
        """Send a request and return its response; raises Unreachable."""
        assert self._transport is not None
        assert self._incoming is None
        incoming = self._incoming = _Incoming(asyncio.get_running_loop().create_future())
        try:
            self._transport.write(request)
            return await incoming.reply
        except BaseException:
            self.abort()
            raise
        finally:
            self._incoming = None

    def abort(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._incoming is None:
            self.abort()  # a server that speaks unasked
            return
        self._incoming.has_begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the answer is no HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        incoming = self._incoming
        if incoming is None or incoming.reply.done():
            return
        is_measured = {"content-length", "transfer-encoding"} & incoming.headers.keys()
        if exc is None and incoming.headers and not is_measured:
            self.on_message_complete()  # the end of the connection is the end of such a body
        else:
            self._fail("the connection broke")

    def _fail(self, why: str) -> None:
        incoming = self._incoming
        if incoming is not None and not incoming.reply.done():
            incoming.reply.set_exception(Unreachable(why) if incoming.has_begun else _Closed(why))
        self.abort()

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._incoming is not None
        self._incoming.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        assert self._incoming is not None
        self._incoming.size += len(body)
        if self._incoming.size > _BODY_BYTES_MAX:
            self._fail("the answer is too long")
            return
        self._incoming.chunks.append(body)

    def on_message_complete(self) -> None:
        incoming = self._incoming
        assert incoming is not None
        status = self._parser.get_status_code()
        if status in _INFORMATIONAL:
            incoming.headers.clear()
            return
        if not self._parser.should_keep_alive():
            self.is_open = False
        if not incoming.reply.done():
            incoming.reply.set_result(Reply(status, incoming.headers, b"".join(incoming.chunks)))


class Client:
    """Asks servers over connections it keeps.

    Every request must be one that may be sent twice: on a kept connection that the server has closed meanwhile it is
    repeated once. `answer_seconds` bounds the wait for a whole response, `connect_seconds` that for a connection.
    `authorities_file` holds the certificates to trust, where the system's own are not meant.
    """

    def __init__(
        self,
        *,
        connect_seconds: float,
        answer_seconds: float,
        connections_max: int,
        kept_seconds: float = 20.0,
        authorities_file: str | None = None,
    ) -> None:
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._kept_seconds = kept_seconds
        self._authorities_file = authorities_file
        self._slots = asyncio.Semaphore(connections_max)
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def request(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Reply:
        """Send one request and return its response, whatever its status; raises Unreachable."""
        origin, request = _encoded(method, url, headers or {}, body)
        async with self._slots:
            kept = self._kept(origin)
            if kept is not None:
                with contextlib.suppress(_Closed):
                    return await self._ask(origin, kept, request)
            return await self._ask(origin, await self._connect(origin), request)

    def _kept(self, origin: Origin) -> _Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_open and clock.monotonic_seconds() - connection.idle_since < self._kept_seconds:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin) -> _Connection:
        scheme, host, port = origin
        if scheme == "https" and self._tls is None:
            self._tls = ssl.create_default_context(cafile=self._authorities_file)
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await asyncio.get_running_loop().create_connection(
                    _Connection, host, port, ssl=self._tls if scheme == "https" else None
                )
        except OSError as error:  # TimeoutError is one
            raise Unreachable(f"no connection to {host}: {type(error).__name__}") from error
        return connection

    async def _ask(self, origin: Origin, connection: _Connection, request: bytes) -> Reply:
        try:
            async with asyncio.timeout(self._answer_seconds):
                reply = await connection.ask(request)
        except TimeoutError:
            raise Unreachable("no answer in time") from None
        if connection.is_open:
            connection.idle_since = clock.monotonic_seconds()
            self._idle.setdefault(origin, deque()).append(connection)
        else:
            connection.abort()
        return reply

    async def close(self) -> None:
        """Close what is kept; requests under way fail."""
        for idle in self._idle.values():
            for connection in idle:
                connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)


def _encoded(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> tuple[Origin, bytes]:
    parts = urlsplit(url)
    assert parts.scheme in _DEFAULT_PORTS, "only HTTP is spoken here"
    assert parts.hostname is not None
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    lines = [f"{method.upper()} {target} HTTP/1.1", f"host: {parts.netloc.rpartition('@')[2]}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header cannot hold a line break")
    head = "\r\n".join((*lines, "", "")).encode("latin-1")
    return (parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme]), head + (body or b"")
