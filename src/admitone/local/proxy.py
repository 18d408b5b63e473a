"""The public port when every service is a process of its own: forwards each request to the service for its path."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, Final, Self, cast

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from admitone.kernel.errors import Unavailable
from admitone.kernel.http import openapi
from admitone.kernel.http.app import HttpApp
from admitone.kernel.http.client import KEEP_ALIVE_SECONDS, Transport
from admitone.kernel.http.client_address import UNKNOWN, client_address
from admitone.kernel.http.operations import OK
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings
from admitone.local.routing import path_prefixes, service_for

log = logging.getLogger(__name__)

# Headers of one connection, not of the message (RFC 9110, §7.6.1). The date is set again by the server.
_HOP_BY_HOP: Final = frozenset(
    {b"connection", b"date", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
_FORWARDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"})
_CONNECT_SECONDS: Final = 2.0
# Longer than any service may take; event streams send a line more often than this.
_RESPONSE_SECONDS: Final = 60.0
_PROBE_SECONDS: Final = 2.0
# A service does not process more requests concurrently anyway. For every request the client library compares all
# connections of its pool with each other: a thousand of them, or one pool for all services, would cost more than the
# request itself.
_CONCURRENT_MAX: Final = 64


class Proxy:
    """The ASGI application on the public port. It serves by itself only what concerns all services together.

    `urls` is read for every request, so that it may change.
    """

    def __init__(self, services: Sequence[Service], urls: Mapping[str, httpx.URL], settings: Settings) -> None:
        self._prefixes = path_prefixes(services)
        self._urls = urls
        self._stopping = asyncio.Event()
        # Pages are not limited: they may be event streams, which never end.
        self._limits = {each.name: asyncio.Semaphore(_CONCURRENT_MAX) for each in services if each.pages is None}
        timeouts = {"connect": _CONNECT_SECONDS, "pool": _CONNECT_SECONDS}
        self._timeouts = {**timeouts, "read": _RESPONSE_SECONDS, "write": _RESPONSE_SECONDS}
        # Transports instead of clients: they keep no cookies, follow no redirects and decompress no bodies.
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=_CONCURRENT_MAX, keepalive_expiry=KEEP_ALIVE_SECONDS
        )
        self._transports = {each.name: Transport(limits=limits, trust_env=False) for each in services}
        routes: list[BaseRoute] = [
            Route("/health/live", self._live),
            Route("/health/ready", self._ready),
            *openapi.routes([each for service in services for each in service.operations], settings),
            Mount("/", self._forward),
        ]
        self._edge = HttpApp(routes, settings)
        self._trust_proxy = settings.trust_proxy

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for transport in self._transports.values():
            await transport.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._edge(scope, receive, send)

    def stopping(self) -> None:
        """Answer "not ready" from now on, and end the event streams."""
        self._stopping.set()

    async def _live(self, _request: Request) -> JSONResponse:
        return JSONResponse({"status": "live"})

    async def _ready(self, _request: Request) -> JSONResponse:
        """Ready: every service is ready."""
        if self._stopping.is_set() or not all(await asyncio.gather(*map(self._is_ready, self._transports))):
            raise Unavailable
        return JSONResponse({"status": "ready"})

    async def _is_ready(self, service: str) -> bool:
        request = httpx.Request("GET", self._urls[service].join("/health/ready"))
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                response = await self._transports[service].handle_async_request(request)
                await response.aread()
        except (httpx.TransportError, TimeoutError):
            return False
        return response.status_code == OK

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = service_for(scope["path"], self._prefixes)
        request = httpx.Request(
            scope["method"],
            self._urls[service],
            headers=self._forwarded_headers(scope),
            content=_body(receive) if _has_body(scope) else None,
            # The unchanged target: a parsed and rebuilt one might mean something else.
            extensions={"timeout": self._timeouts, "target": _target(scope)},
        )
        try:
            async with self._limits.get(service, contextlib.nullcontext()):
                await self._exchange(self._transports[service], request, receive, send)
        except httpx.TransportError as error:
            log.warning("a service did not respond", extra={"service": service, "error": repr(error)})
            raise Unavailable from None

    def _forwarded_headers(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Return the request's headers for the service, with the client's address as this proxy knows it."""
        kept = [each for each in scope["headers"] if each[0] not in _HOP_BY_HOP | _FORWARDED]
        address = client_address(scope, trust_proxy=self._trust_proxy)
        return [*kept, (b"x-forwarded-for", str(address or UNKNOWN).encode())]

    async def _exchange(
        self, transport: httpx.AsyncBaseTransport, request: httpx.Request, receive: Receive, send: Send
    ) -> None:
        """Send the request and stream the response back, until the client disconnects or the proxy stops."""
        response = await transport.handle_async_request(request)
        try:
            is_event_stream = response.headers.get("content-type", "").startswith("text/event-stream")
            interruptions = [_disconnected(receive), *([self._stopping.wait()] if is_event_stream else [])]
            is_complete = await _complete_unless(_stream(response, send), interruptions)
            if not is_complete and self._stopping.is_set():
                await send({"type": "http.response.body", "body": b""})
        finally:
            await response.aclose()


def _target(scope: Scope) -> bytes:
    path: bytes = scope["raw_path"]
    return path + b"?" + scope["query_string"] if scope["query_string"] else path


def _has_body(scope: Scope) -> bool:
    return any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"])


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise httpx.ReadError("the client disconnected in the middle of the request")
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


async def _stream(response: httpx.Response, send: Send) -> None:
    """Forward each chunk at once: an event stream must not be buffered until its end."""
    headers = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in _HOP_BY_HOP]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    async for chunk in cast("AsyncIterator[bytes]", response.stream):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _complete_unless(
    work: Coroutine[None, None, None], interruptions: Sequence[Coroutine[Any, Any, object]]
) -> bool:
    """Run the work until it or one of the interruptions ends; return whether it completed. Raises what it raises."""
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(each) for each in (work, *interruptions)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(outcomes[0], Exception):
        raise outcomes[0]
    return outcomes[0] is None
