"""The HTTP edge: dispatches requests to operations and pages, and turns every outcome into a response.

This is the only file that knows which status code an error gets. The order of checks is always the same: origin and
size of the request, authentication, parsing, and then the use case's own rules.
"""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from opentelemetry.trace import get_current_span
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Message, Receive, Scope, Send

from admitone.kernel import errors
from admitone.kernel.database.pool import UNREACHABLE
from admitone.kernel.errors import (
    BodyTooLarge,
    FieldError,
    Forbidden,
    NotFound,
    NotInTime,
    NotSignedIn,
    Refusal,
    Unavailable,
)
from admitone.kernel.http.client_address import client_address, parse_address
from admitone.kernel.http.operations import (
    INTERNAL_ERROR,
    NO_CONTENT,
    NOT_MODIFIED,
    InProgress,
    Operation,
    Request,
    Response,
)
from admitone.kernel.http.parsing import BODY_BYTES_MAX, read_body, read_query
from admitone.kernel.running import RunningService
from admitone.kernel.settings import Settings
from admitone.kernel.tracing import trace_span

log = logging.getLogger(__name__)

_STATUS: Final[Mapping[type[Refusal], int]] = {
    errors.Invalid: 400,
    errors.NotSignedIn: 401,
    errors.PaymentRequired: 402,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.NotInTime: 408,
    errors.Conflict: 409,
    errors.PreconditionFailed: 412,
    errors.BodyTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.Misdirected: 421,
    errors.IdempotencyKeyReused: 422,
    errors.TooManyRequests: 429,
    errors.HeadTooLarge: 431,
    errors.Unavailable: 503,
}

# Refusals that may be part of an attack are logged. Source: OWASP ASVS 5.0, 16.3.
_LOGGED: Final = (errors.NotSignedIn, errors.Forbidden, errors.Misdirected, errors.TooManyRequests)
# In the scope: the id of the account that a request comes from, once it is known.
_ACCOUNT: Final = "account"

_JSON: Final = b"application/json"
_HEALTH: Final = "/health/"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITE: Final = frozenset({"same-origin", "none"})
_WITHOUT_BODY: Final = frozenset({NO_CONTENT, NOT_MODIFIED})
_LENGTH_DIGITS_MAX: Final = 18

# Sources: RFC 6761 (localhost), RFC 6762 (local), RFC 8375 (home.arpa), ICANN (internal).
_LOCAL_NAME: Final = re.compile(r"[\w-]+|([\w-]+\.)+(localhost|local|home\.arpa|internal|lan)", re.ASCII)

_BODY_SECONDS: Final = 20.0

# Load shedding: more requests in progress than one operation can serve within about a second.
_IN_PROGRESS_MAX: Final = 1500

# Added to every response that does not set them. Source: OWASP Secure Headers Project; RFC 6797; CSP level 3.
_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(self)"),
    (b"cache-control", b"no-store"),
)
_TRANSPORT_SECURITY: Final = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")


def security_headers(settings: Settings) -> tuple[tuple[bytes, bytes], ...]:
    return (*_HEADERS, _TRANSPORT_SECURITY) if settings.is_https else _HEADERS


class ErrorBody(msgspec.Struct):
    """The body of every error: one entry per broken rule."""

    errors: list[FieldError]


def status_of(refusal: type[Refusal]) -> int:
    """Return the status code of a kind of refusal."""
    return next(_STATUS[kind] for kind in refusal.__mro__ if kind in _STATUS)


async def _receive_body(headers: Headers, receive: Receive) -> bytes:
    """Return the request's body; raises BodyTooLarge as soon as it exceeds 64 KiB, NotInTime, or ClientDisconnect."""
    announced = headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > _LENGTH_DIGITS_MAX or int(announced) > BODY_BYTES_MAX):
        raise BodyTooLarge
    received = bytearray()
    is_complete = False
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while not is_complete:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                received += message.get("body", b"")
                if len(received) > BODY_BYTES_MAX:
                    raise BodyTooLarge
                is_complete = not message.get("more_body", False)
    except TimeoutError:
        raise NotInTime from None
    return bytes(received)


def _after_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that begins with the whole body, although it was received before."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


async def send_response(send: Send, response: Response) -> None:
    """Send a whole response."""
    headers = list(response.headers)
    body = response.encoded()
    if response.status not in _WITHOUT_BODY:
        headers.append((b"content-length", str(len(body)).encode()))
        if not any(name == b"content-type" for name, _ in headers):
            headers.append((b"content-type", _JSON))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _error_response(refusal: Refusal) -> Response:
    headers: list[tuple[bytes, bytes]] = []
    if refusal.retry_after_seconds is not None:
        headers.append((b"retry-after", str(refusal.retry_after_seconds).encode()))
    if isinstance(refusal, errors.MethodNotAllowed):
        headers.append((b"allow", ", ".join(refusal.allowed).encode()))
    if isinstance(refusal, NotInTime):
        headers.append((b"connection", b"close"))  # the rest of the request would be read as another one
    return Response(status_of(type(refusal)), ErrorBody(refusal.errors), tuple(headers))


def response_bytes(refusal: Refusal, settings: Settings) -> bytes:
    """Return the whole response to what the application never gets, after which the server closes the connection."""
    response = _error_response(refusal)
    body = response.encoded()
    headers = [
        *response.headers,
        *security_headers(settings),
        (b"content-type", _JSON),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    status = HTTPStatus(response.status)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode(), *(b": ".join(each) for each in headers)]
    return b"\r\n".join([*lines, b"", body])


class _Endpoint:
    """One operation of one service; it refuses requests beyond its limit before any work."""

    def __init__(self, service: RunningService[Any], operation: Operation) -> None:
        self._service = service
        self._operation = operation
        self._in_progress = InProgress(_IN_PROGRESS_MAX)
        # The route, not the path: otherwise there would be as many span names as ids.
        self._span_name = f"{service.name} {operation.method} {operation.path}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        get_current_span().update_name(self._span_name)
        with self._in_progress.counted():
            response = await self._respond(HttpRequest(scope, receive))
        await send_response(send, response)

    async def _respond(self, request: HttpRequest) -> Response:
        operation = self._operation
        user = await self._service.sessions.user_of(request.headers)
        if user is not None:
            request.scope[_ACCOUNT] = user.id
        if operation.signed_in and user is None:
            raise NotSignedIn
        parsed: msgspec.Struct | None = None
        if operation.body is not None:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise errors.UnsupportedMediaType
            parsed = read_body(await request.body(), operation.body)
        elif operation.query is not None:
            parsed = read_query(request.scope["query_string"], operation.query)
        return await operation.use_case(Request(self._service, request, parsed, user, self._in_progress))


class _Path:
    """The operations of one path, by method."""

    def __init__(self, service: RunningService[Any], operations: Sequence[Operation]) -> None:
        self._endpoints = {each.method: _Endpoint(service, each) for each in operations}
        self._allowed = tuple(sorted(self._endpoints))
        if "GET" in self._endpoints:
            self._endpoints["HEAD"] = self._endpoints["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            raise errors.MethodNotAllowed(self._allowed)
        await endpoint(scope, receive, send)


def _host_name(host: str) -> str:
    """Return the name or address in a Host field, in lower case and without the port; nothing if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        is_host = parts.netloc == host and parts.username is None and parts.port != 0
    except ValueError:
        return ""
    return (parts.hostname or "") if is_host else ""


def _is_local(host: str) -> bool:
    address = parse_address(host)
    return host == "localhost" if address is None else address.is_private


def _is_unregistered(host: str) -> bool:
    """Whether a host is an address, or a name that nobody can register and let lead to this machine."""
    if parse_address(host) is not None:
        return True
    return bool(_LOCAL_NAME.fullmatch(host))


class HttpApp:
    """The outermost ASGI application: trace, security headers, origin check, and a response for every outcome."""

    def __init__(self, routes: Sequence[BaseRoute], settings: Settings) -> None:
        self._router = Router(routes, redirect_slashes=False)
        # Paths without parameters: one lookup instead of matching every route.
        self._fixed_paths = {
            each.path: each
            for each in routes
            if isinstance(each, Route) and isinstance(each.endpoint, _Path) and not each.param_convertors
        }
        self._own_origin = settings.public_origin
        own_host = _host_name(urlsplit(settings.public_origin).netloc)
        self._own_host = None if _is_local(own_host) else own_host
        self._trust_proxy = settings.trust_proxy
        self._headers = security_headers(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        scope["app"] = self  # makes Starlette's router raise its errors, so that they become responses here
        started = False

        async def send_with_headers(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(each for each in self._headers if each[0] not in present)]
            await send(message)

        headers = Headers(scope=scope)
        with trace_span(headers.get("traceparent"), scope["method"]):
            try:
                self._check_host(scope["path"], headers)
                if scope["method"] not in _SAFE_METHODS:
                    self._check_origin(headers)
                if "content-length" in headers or "transfer-encoding" in headers:
                    # Before anything is counted as in progress, so that only its own connection waits for a client.
                    receive = _after_body(await _receive_body(headers, receive), receive)
                route = self._fixed_paths.get(scope["path"])
                if route is not None:
                    scope["route"] = route
                    await route.endpoint(scope, receive, send_with_headers)
                else:
                    await self._router(scope, receive, send_with_headers)
            except ClientDisconnect:
                log.info("client disconnected", extra={"path": scope["path"]})
            except Exception as error:
                if started:
                    raise
                await send_response(send_with_headers, self._error_response(scope, error))

    def _error_response(self, scope: Scope, error: Exception) -> Response:
        if isinstance(error, UNREACHABLE):
            log.warning("the database is unreachable", extra={"path": scope["path"], "error": repr(error)})
            error = Unavailable()
        if isinstance(error, HTTPException):  # raised by Starlette's router: 404 and 405
            allowed = (error.headers or {}).get("Allow", "")
            error = errors.MethodNotAllowed(tuple(allowed.split(", "))) if allowed else NotFound()
        if isinstance(error, Refusal):
            if isinstance(error, _LOGGED):
                # Without the input: it may be a password in the wrong field.
                address = client_address(scope, trust_proxy=self._trust_proxy)
                kind, account = type(error).__name__, scope.get(_ACCOUNT)
                extra = {"path": scope["path"], "kind": kind, "from": str(address or ""), "account": account}
                log.info("refused", extra=extra)
            return _error_response(error)
        log.error("request failed", extra={"path": scope["path"]}, exc_info=error)
        return Response(INTERNAL_ERROR, ErrorBody([FieldError("Something went wrong on our side")]))

    def _check_host(self, path: str, headers: Headers) -> None:
        """Refuse requests without exactly one Host (RFC 9112, §3.2) and those for other hosts.

        With a public origin these are all but its own; addresses of this machine and of its network are accepted, which
        other services use, and probes may use any. Without one these are names that somebody can register: a page of
        theirs could reach a marketplace on its visitor's machine (DNS rebinding).
        """
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            raise errors.Invalid("The request must have one Host field")
        if path.startswith(_HEALTH):
            return
        host = _host_name(hosts[0])
        is_accepted = _is_unregistered(host) if self._own_host is None else host == self._own_host or _is_local(host)
        if not is_accepted:
            raise errors.Misdirected

    def _check_origin(self, headers: Headers) -> None:
        """Refuse requests that change something and come from another site's page.

        Source: OWASP Cross-Site Request Forgery Prevention, "Fetch Metadata" and "Origin" checks. Clients that send
        neither header are not browsers and do not send cookies unintentionally.
        """
        site = headers.get("sec-fetch-site")
        if site is not None:
            if site not in _OWN_SITE:
                raise Forbidden("The request came from another site")
            return
        origin = headers.get("origin")
        if origin is None or origin == self._own_origin:
            return
        host = headers.get("host")
        if not host or origin.partition("://")[2] != host:
            raise Forbidden("The request came from another site")


def operation_routes(service: RunningService[Any], operations: Sequence[Operation]) -> list[Route]:
    """Return the Starlette routes of a running service's operations: one for each path, in order."""
    paths = dict.fromkeys(each.path for each in operations)
    return [Route(path, _Path(service, [each for each in operations if each.path == path])) for path in paths]
