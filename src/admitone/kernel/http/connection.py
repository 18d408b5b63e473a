"""A client's connection: the limits of size, time and number that hold before a request reaches the application.

It stands between the transport and uvicorn's protocol and reads the same bytes with a parser of its own, so that it
depends on nothing but the public interfaces of asyncio, httptools and uvicorn (decision 24).
"""

import asyncio
import logging
import resource
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address, ip_network
from typing import Any, Final, cast

import httptools
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from admitone.kernel.errors import HeadTooLarge, Invalid, NotInTime, Refusal, Unavailable
from admitone.kernel.http.client_address import ClientAddress, parse_address

log = logging.getLogger(__name__)

HEAD_BYTES_MAX: Final = 32 * 1024
FIELDS_MAX: Final = 100
# From the connection, or the end of the last response, to the end of the next head.
_HEAD_SECONDS: Final = 10.0
# Without the client reading anything of what it was sent.
_STALLED_SECONDS: Final = 30.0

_CONNECTIONS_MAX: Final = 10_000
_CONNECTIONS_PER_CLIENT_MAX: Final = 200
# For everything else that a process opens: databases, the bus, logs, other services.
_DESCRIPTORS_RESERVED: Final = 256
_DESCRIPTORS_WANTED: Final = 2 * _CONNECTIONS_MAX + _DESCRIPTORS_RESERVED

_STATE: Final = "connection"


class OpenConnections:
    """The open connections of one server, of each client and in all; those beyond a limit are refused.

    Addresses of one IPv6 /64 count as one client. Loopback addresses are limited only in all; so is everybody
    without `per_client_max`, as behind a proxy, whose address is the only one that is seen.
    """

    def __init__(self, in_all_max: int, per_client_max: int | None) -> None:
        self._in_all_max = in_all_max
        self._per_client_max = per_client_max
        self._by_client: Counter[object] = Counter()

    def open(self, address: ClientAddress | None) -> bool:
        """Count a connection if it may be open; return whether it may."""
        if self._by_client.total() >= self._in_all_max:
            return False
        client = _client_of(address)
        is_limited = self._per_client_max is not None and not (address is not None and address.is_loopback)
        if is_limited and self._by_client[client] >= (self._per_client_max or 0):
            return False
        self._by_client[client] += 1
        return True

    def close(self, address: ClientAddress | None) -> None:
        client = _client_of(address)
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]


def _client_of(address: ClientAddress | None) -> object:
    return ip_network((address, 64), strict=False) if isinstance(address, IPv6Address) else address


def limited_connections(*, trust_proxy: bool) -> OpenConnections:
    """Raise this process's limit of descriptors as far as it may, and return connections that stay below it.

    Our own proxy needs two descriptors for a connection.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    available = _CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else (soft - _DESCRIPTORS_RESERVED) // 2
    in_all_max = max(min(_CONNECTIONS_MAX, available), 1)
    return OpenConnections(in_all_max, None if trust_proxy else min(_CONNECTIONS_PER_CLIENT_MAX, in_all_max // 4 + 1))


class Connection(asyncio.Protocol):
    """Passes bytes on to uvicorn's protocol once they are known to be within the limits.

    `render` returns the whole response to a refusal, as bytes.
    """

    def __init__(
        self,
        connections: OpenConnections,
        render: Callable[[Refusal], bytes],
        *,
        app_state: dict[str, Any],
        **options: Any,
    ) -> None:
        self._connections = connections
        self._render = render
        # The state is in the scope of every request, by which `answering` finds the connection.
        self._uvicorn = HttpToolsProtocol(app_state={**app_state, _STATE: self}, **options)
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        # As uvicorn does: what follows a request with `Connection: close` is ignored instead of an error.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._transport: asyncio.Transport | None = None
        self._address: ClientAddress | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._stalled_timer: asyncio.TimerHandle | None = None
        self._is_in_head = self._is_in_body = False
        self._url = b""
        self._fields = self._head_bytes = self._waiting_bytes = 0
        self._unanswered = 0
        self._refusals: list[Refusal] = []

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._address = parse_address(peer[0]) if isinstance(peer, tuple) else None
        if not self._connections.open(self._address):
            log.warning("connection refused: there are too many", extra={"from": str(self._address or "")})
            transport.write(self._render(Unavailable()))
            transport.close()
            return
        self._transport = transport
        self._start_head_timer()
        self._uvicorn.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._refusals:
            return
        self._waiting_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request was read; uvicorn answers it without upgrading
        except httptools.HttpParserError:
            self._refusals.append(Invalid("The request is not valid HTTP"))
        if (self._is_in_head or self._is_in_body) and self._waiting_bytes > HEAD_BYTES_MAX:
            self._refusals.append(HeadTooLarge())
        if self._refusals:
            self._refuse()
        else:
            self._uvicorn.data_received(data)

    def eof_received(self) -> None:
        if self._transport is not None:
            self._uvicorn.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        self._transport = None
        self._stop_head_timer()
        self._stop_stalled_timer()
        self._connections.close(self._address)
        self._uvicorn.connection_lost(exc)

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._stalled_timer = self._loop.call_later(_STALLED_SECONDS, self._transport.abort)
        self._uvicorn.pause_writing()

    def resume_writing(self) -> None:
        self._stop_stalled_timer()
        self._uvicorn.resume_writing()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._is_in_head = True
        self._url = b""
        self._fields = self._head_bytes = 0
        # The bytes that the parsers may be keeping: those of this head, without the current call's, of which some may
        # belong to an earlier request; then those of chunk extensions and trailers since the last part of the body.
        self._waiting_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_in_head:
            # They would be added to the head's fields, as if the proxy in front had seen them.
            self._refusals.append(Invalid("Trailers are not supported"))
            return
        self._fields += 1
        self._count(len(name) + len(value) + len(b": \r\n"))

    def on_headers_complete(self) -> None:
        try:
            has_path = httptools.parse_url(self._url).path is not None
        except httptools.HttpParserInvalidURLError:
            has_path = False
        if not has_path:
            self._refusals.append(Invalid("The request is not valid HTTP"))
        if not self._refusals:
            self._is_in_head, self._is_in_body = False, True
            self._waiting_bytes = 0
            self._unanswered += 1
            self._stop_head_timer()

    def on_body(self, _body: bytes) -> None:
        self._waiting_bytes = 0

    def on_message_complete(self) -> None:
        if not self._refusals:
            self._is_in_body = False

    def _count(self, length: int) -> None:
        self._head_bytes += length
        if self._head_bytes > HEAD_BYTES_MAX or self._fields > FIELDS_MAX:
            self._refusals.append(HeadTooLarge())

    # Limits of time.

    def answered(self) -> None:
        """Note that the application has answered one request."""
        self._unanswered -= 1
        if not self._unanswered and self._transport is not None:
            self._start_head_timer()

    def _start_head_timer(self) -> None:
        self._stop_head_timer()
        self._head_timer = self._loop.call_later(_HEAD_SECONDS, self._no_head_in_time)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()

    def _stop_stalled_timer(self) -> None:
        if self._stalled_timer is not None:
            self._stalled_timer.cancel()

    def _no_head_in_time(self) -> None:
        if self._is_in_head:
            self._refusals.append(NotInTime())
            self._refuse()
        else:
            self._close()

    def _close(self) -> None:
        """Close the connection once the client has read everything, or when it has had the time to."""
        assert self._transport is not None
        self._transport.close()
        self._stop_head_timer()
        self._stop_stalled_timer()
        self._stalled_timer = self._loop.call_later(_STALLED_SECONDS, self._transport.abort)

    def _refuse(self) -> None:
        """Close the connection; respond first, unless the client would take it for the response to another request."""
        assert self._transport is not None
        refusal = self._refusals[0]
        extra = {"kind": type(refusal).__name__, "from": str(self._address or "")}
        log.info("connection refused", extra=extra)
        if self._unanswered == (1 if self._is_in_body else 0):
            self._transport.write(self._render(refusal))
        self._close()


def answering(app: ASGIApp) -> ASGIApp:
    """Return an application that reports the end of each response to the request's connection."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        connection: Connection = scope["state"].pop(_STATE)
        try:
            await app(scope, receive, send)
        finally:
            connection.answered()

    return answer
