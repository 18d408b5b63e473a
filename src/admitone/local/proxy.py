"""The one public port when every service is a process of its own: passes each request to the service it is for."""

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
from admitone.kernel.http.client import Transport
from admitone.kernel.http.client_address import client_address
from admitone.kernel.http.operations import OK, Operation
from admitone.kernel.settings import Settings

log = logging.getLogger(__name__)

_PREFIXES: Final = {
    "/api/users": "auth",
    "/api/tickets": "tickets",
    "/api/orders": "orders",
    "/api/payments": "payments",
}
_ELSE: Final = "web"
# They speak of one connection, not of the message (RFC 9110, §7.6.1); the date is set by the one who sends it on.
_HOP_BY_HOP: Final = frozenset(
    {b"connection", b"date", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
_FORWARDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"})
_CONNECT_SECONDS: Final = 2.0
# Longer than any service may take; streams of live changes send a line more often than this.
_ANSWER_SECONDS: Final = 60.0
# A probe that waits longer than this is given up by whoever probes.
_PROBE_SECONDS: Final = 2.0
# A service works on no more at once anyway. For every request the client library compares all connections of its pool
# with each other, so that a thousand of them, or one pool for all services, would cost more than the work itself.
_AT_ONCE: Final = 64


def service_for(path: str) -> str:
    """Return which service answers a path."""
    for prefix, service in _PREFIXES.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return service
    return _ELSE


class Proxy:
    """The ASGI application on the public port. It answers only what concerns all services together."""

    def __init__(self, urls: Mapping[str, str], operations: Sequence[Operation], settings: Settings) -> None:
        self._urls = {service: httpx.URL(url) for service, url in urls.items()}
        self._stopping = asyncio.Event()
        # Pages may be streams that never end; they wait for nobody.
        self._turns = {service: asyncio.Semaphore(_AT_ONCE) for service in urls if service != _ELSE}
        timeouts = {"connect": _CONNECT_SECONDS, "pool": _CONNECT_SECONDS}
        self._timeouts = {**timeouts, "read": _ANSWER_SECONDS, "write": _ANSWER_SECONDS}
        # Transports alone: no cookies kept, no redirects followed, no body unpacked.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=_AT_ONCE)
        self._transports = {service: Transport(limits=limits, trust_env=False) for service in urls}
        routes: list[BaseRoute] = [
            Route("/health/live", self._live),
            Route("/health/ready", self._ready),
            *openapi.routes(openapi.document(operations, settings)),
            Mount("/", self._pass_on),
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
        """Answer "not ready" from now on, and end the streams that would never end by themselves."""
        self._stopping.set()

    async def _live(self, _request: Request) -> JSONResponse:
        return JSONResponse({"status": "live"})

    async def _ready(self, _request: Request) -> JSONResponse:
        """Ready: every service is."""
        if self._stopping.is_set() or not all(await asyncio.gather(*map(self._is_ready, self._urls))):
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

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = service_for(scope["path"])
        request = httpx.Request(
            scope["method"],
            self._urls[service],
            headers=self._passed_on(scope),
            content=_body(receive) if _has_body(scope) else None,
            # The target as it came: a parsed and rebuilt one might name something else.
            extensions={"timeout": self._timeouts, "target": _target(scope)},
        )
        try:
            async with self._turns.get(service, contextlib.nullcontext()):
                await self._exchange(self._transports[service], request, receive, send)
        except httpx.TransportError as error:
            log.warning("a service did not answer", extra={"service": service, "error": repr(error)})
            raise Unavailable from None

    def _passed_on(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Return the request's headers for the service, with the client's address as this proxy knows it."""
        kept = [each for each in scope["headers"] if each[0] not in _HOP_BY_HOP | _FORWARDED]
        address = client_address(scope, trust_proxy=self._trust_proxy)
        return [*kept, (b"x-forwarded-for", str(address).encode())] if address else kept

    async def _exchange(
        self, transport: httpx.AsyncBaseTransport, request: httpx.Request, receive: Receive, send: Send
    ) -> None:
        """Send a request on and its answer back, until either side has had enough."""
        response = await transport.handle_async_request(request)
        try:
            is_endless = response.headers.get("content-type", "").startswith("text/event-stream")
            endings = [_gone(receive), *([self._stopping.wait()] if is_endless else [])]
            is_whole = await _until_any(_stream(response, send), endings)
            if not is_whole and self._stopping.is_set():
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
            raise httpx.ReadError("the caller went away in the middle of the request")
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


async def _stream(response: httpx.Response, send: Send) -> None:
    """Send each piece on as it comes: a stream of live changes must not wait for its own end."""
    headers = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in _HOP_BY_HOP]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    async for chunk in cast("AsyncIterator[bytes]", response.stream):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _until_any(working: Coroutine[None, None, None], endings: Sequence[Coroutine[Any, Any, object]]) -> bool:
    """Do the one until it is done, which is then true, or one of the others is; raise what the first raises."""
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(each) for each in (working, *endings)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(outcomes[0], Exception):
        raise outcomes[0]
    return outcomes[0] is None
