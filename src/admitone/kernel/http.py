"""The HTTP edge: routes that say what they read, answer and refuse; the one error body; the rules for every request.

This is the only file that knows status codes. The order of checks is the same everywhere: where the request comes
from, who asks, what they sent, and then the use case's own rules.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request, cookie_parser
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Message, Receive, Scope, Send

from admitone.kernel import bodies, refusals
from admitone.kernel.bodies import BODY_BYTES_MAX, read_body, read_query
from admitone.kernel.database import UNREACHABLE, Database
from admitone.kernel.identity import COOKIE, Person
from admitone.kernel.refusals import FieldError, Forbidden, Missing, NotSignedIn, Refusal, TooLarge, Unavailable
from admitone.kernel.settings import Settings
from admitone.kernel.trace import following

if TYPE_CHECKING:
    from admitone.kernel.service import Running

log = logging.getLogger(__name__)

OK: Final = 200
CREATED: Final = 201
ACCEPTED: Final = 202
NO_CONTENT: Final = 204
SEE_OTHER: Final = 303
NOT_MODIFIED: Final = 304
INTERNAL_ERROR: Final = 500
_WITHOUT_BODY: Final = frozenset({NO_CONTENT, NOT_MODIFIED})

_STATUS: Final[Mapping[type[Refusal], int]] = {
    refusals.Invalid: 400,
    refusals.NotSignedIn: 401,
    refusals.PaymentRequired: 402,
    refusals.Forbidden: 403,
    refusals.Missing: 404,
    refusals.MethodNotAllowed: 405,
    refusals.Conflict: 409,
    refusals.Stale: 412,
    refusals.TooLarge: 413,
    refusals.WrongMediaType: 415,
    refusals.KeyReused: 422,
    refusals.TooManyTries: 429,
    refusals.Unavailable: 503,
}

# What whoever looks for attacks afterwards wants to have seen. Source: OWASP ASVS 5.0, 16.3.
_WORTH_NOTING: Final = (refusals.NotSignedIn, refusals.Forbidden, refusals.TooManyTries)

_JSON: Final = b"application/json"
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITE: Final = frozenset({b"same-origin", b"none"})
KEY_CHARACTERS_MAX: Final = 255
_LENGTH_DIGITS_MAX: Final = 18

# More of one operation than can be served within a second or so: whoever comes then is better told at once.
_UNDER_WAY_MAX: Final = 1500

# On every response that does not bring its own. Source: OWASP Secure Headers Project; RFC 6797; CSP level 3.
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

B = TypeVar("B", bound=msgspec.Struct | None)


class Errors(msgspec.Struct):
    """The one error body: an entry per failed rule."""

    errors: list[FieldError]


@dataclass(frozen=True)
class Answer:
    """What a route answers: a status and a body, encoded here unless it is bytes already."""

    status: int
    body: msgspec.Struct | bytes | dict[str, Any] | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def encoded(self) -> bytes:
        """Return the body's bytes; an absent body is empty."""
        if isinstance(self.body, bytes):
            return self.body
        return b"" if self.body is None else _ENCODER.encode(self.body)


@dataclass(slots=True)
class Call(Generic[B]):
    """One request to one service, as its use case sees it."""

    service: "Running"
    request: Request
    body: B
    query: Any
    caller: Person | None

    @property
    def db(self) -> Database:
        return self.service.database

    @property
    def settings(self) -> Settings:
        return self.service.settings

    @property
    def person(self) -> Person:
        """Who is signed in; only for routes that demand it."""
        if self.caller is None:
            raise NotSignedIn
        return self.caller

    def id(self, name: str = "id") -> UUID:
        """Return an id from the path; a malformed one names nothing, so it is Missing."""
        try:
            return bodies.uuid(self.request.path_params[name])
        except ValueError:
            raise Missing from None

    def header(self, name: str) -> str | None:
        return self.request.headers.get(name)

    @property
    def idempotency_key(self) -> str | None:
        """The caller's Idempotency-Key: 1 to 255 visible ASCII characters."""
        key = self.header("idempotency-key")
        if key is not None and not (0 < len(key) <= KEY_CHARACTERS_MAX and key.isascii() and key.isprintable()):
            raise refusals.Invalid("Idempotency-Key must be 1 to 255 visible characters")
        return key


UseCase = Callable[[Call[Any]], Awaitable[Answer]]


@dataclass(frozen=True)
class Operation:
    """One operation of the API: what it reads, answers and refuses. The OpenAPI document is made from these."""

    method: str
    path: str
    use_case: UseCase
    summary: str
    status: int
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    answers: Any = None
    refuses: tuple[type[Refusal], ...] = ()
    signed_in: bool = False
    idempotent: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    sends: Mapping[str, str] = field(default_factory=dict)
    raw: bool = False
    examples: Mapping[str, Any] = field(default_factory=dict)
    otherwise: Mapping[int, str] = field(default_factory=dict)


def operation(
    method: str,
    path: str,
    *,
    status: int = OK,
    body: type[msgspec.Struct] | None = None,
    query: type[msgspec.Struct] | None = None,
    answers: Any = None,
    refuses: Sequence[type[Refusal]] = (),
    signed_in: bool = False,
    idempotent: bool = False,
    headers: Mapping[str, str] | None = None,
    sends: Mapping[str, str] | None = None,
    raw: bool = False,
    examples: Mapping[str, Any] | None = None,
    otherwise: Mapping[int, str] | None = None,
) -> Callable[[UseCase], Operation]:
    """Declare a use case as an operation of the API.

    `answers` is the type of the success body; `refuses` lists the refusals of the use case itself, beside those that
    follow from the other arguments; `headers` names request headers with their meaning, `sends` those that come
    with every success; `raw` leaves the body to the use case (webhooks); `otherwise` describes statuses that are
    neither success nor refusal.
    """

    def declare(use_case: UseCase) -> Operation:
        assert use_case.__doc__, f"{use_case.__name__} needs a docstring: it is the operation's summary"
        return Operation(
            method=method,
            path=path,
            use_case=use_case,
            summary=use_case.__doc__.strip(),
            status=status,
            body=body,
            query=query,
            answers=answers,
            refuses=tuple(refuses),
            signed_in=signed_in,
            idempotent=idempotent,
            headers=headers or {},
            sends=sends or {},
            raw=raw,
            examples=examples or {},
            otherwise=otherwise or {},
        )

    return declare


async def read_raw(request: Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """Return the request's body; raises TooLarge as soon as it is longer than allowed."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > _LENGTH_DIGITS_MAX or int(announced) > bytes_max):
        raise TooLarge
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > bytes_max:
            raise TooLarge
    return bytes(received)


class _Endpoint:
    """Runs one operation for one service; when too many of it are under way, it refuses before it does any work."""

    def __init__(self, service: "Running", declared: Operation) -> None:
        self._service = service
        self._operation = declared
        self._under_way = 0
        self.says = f"{service.name} {declared.method} {declared.path}"

    @property
    def is_full(self) -> bool:
        return self._under_way >= _UNDER_WAY_MAX

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.is_full:
            raise Unavailable
        self._under_way += 1
        try:
            answer = await self._answer(Request(scope, receive))
        finally:
            self._under_way -= 1
        await send_answer(send, answer.status, answer.encoded(), answer.headers)

    async def _answer(self, request: Request) -> Answer:
        declared = self._operation
        caller = await self._service.identity.person(session_token(request))
        if declared.signed_in and caller is None:
            raise NotSignedIn
        body: msgspec.Struct | None = None
        if declared.body is not None:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise refusals.WrongMediaType
            body = read_body(await read_raw(request), declared.body)
        query: msgspec.Struct | None = None
        if declared.query is not None:
            query = read_query(_query_pairs(request.scope), declared.query)
        return await declared.use_case(Call(self._service, request, body, query, caller))


def _query_pairs(scope: Scope) -> list[tuple[str, str]]:
    try:
        text = scope["query_string"].decode("ascii")
        return parse_qsl(text, keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError:
        raise refusals.Invalid("The query is not valid") from None


def session_token(request: Request) -> str | None:
    """Return the session cookie's value, if it can be a token: a quoted cookie may hold line breaks."""
    for name, value in request.scope["headers"]:
        if name == b"cookie" and COOKIE.encode() in value:
            token = cookie_parser(value.decode("latin-1")).get(COOKIE)
            return token if token is not None and token.isascii() and token.isprintable() else None
    return None


async def send_answer(send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Send a whole response."""
    for message in _messages(status, body, headers):
        await send(message)


def _messages(status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> tuple[Message, Message]:
    start: list[tuple[bytes, bytes]] = [*headers]
    if status not in _WITHOUT_BODY:
        start.append((b"content-length", str(len(body)).encode()))
        if not any(name == b"content-type" for name, _ in headers):
            start.append((b"content-type", _JSON))
    return (
        {"type": "http.response.start", "status": status, "headers": start},
        {"type": "http.response.body", "body": body},
    )


def status_of(refusal: type[Refusal]) -> int:
    """Return the status code of a kind of refusal."""
    return next(_STATUS[kind] for kind in refusal.__mro__ if kind in _STATUS)


def _on_the_wire(messages: tuple[Message, Message]) -> bytes:
    """Return a response as HTTP/1.1 has it."""
    start, body = messages
    status = HTTPStatus(start["status"])
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode(), *(b": ".join(each) for each in start["headers"])]
    return b"\r\n".join([*lines, b"", body["body"]])


def _refusal(refusal: Refusal, more_headers: Sequence[tuple[bytes, bytes]] = ()) -> tuple[Message, Message]:
    """Return the messages that answer with the one error body."""
    headers = list(more_headers)
    if refusal.retry_after_seconds is not None:
        headers.append((b"retry-after", str(refusal.retry_after_seconds).encode()))
    if isinstance(refusal, refusals.MethodNotAllowed):
        headers.append((b"allow", ", ".join(refusal.allowed).encode()))
    return _messages(status_of(type(refusal)), _ENCODER.encode(Errors(refusal.errors)), headers)


class Edge:
    """The outermost ASGI application: trace, security headers, origin check, and an answer whatever happens inside."""

    def __init__(self, routes: Sequence[BaseRoute], settings: Settings) -> None:
        self._router = Router(routes, redirect_slashes=False, default=_nothing_here)
        self._operations = _by_path(routes)
        self._own_origins = {settings.public_origin.encode()}
        self._headers = _HEADERS + ((_TRANSPORT_SECURITY,) if settings.is_https else ())
        self._busy = _on_the_wire(_refusal(Unavailable(), self._headers))

    def refused_at_the_door(self, method: bytes, url: bytes) -> tuple[object, bytes] | None:
        """Return the operation that has no room for a request, and the whole answer to it; None when there is room.

        Only for operations whose path has no parameters; the others refuse by themselves, later.
        """
        endpoint = self._operations.get((method.decode("ascii"), url.partition(b"?")[0].decode("latin-1")))
        if endpoint is None or not endpoint.is_full or method == b"HEAD":
            return None
        return endpoint, self._busy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        endpoint = self._operations.get((scope["method"], scope["path"]))
        scope["app"] = self  # tells Starlette's routes to raise what they refuse, so that it is answered here
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(each for each in self._headers if each[0] not in present)]
            await send(message)

        headers = scope["headers"]
        with following(_first(headers, b"traceparent"), lambda: _done(scope)):
            try:
                self._check_origin(scope)
                if endpoint is not None:
                    scope["endpoint"] = endpoint
                    await endpoint(scope, receive, send_with_headers)
                else:
                    await self._router(scope, receive, send_with_headers)
            except ClientDisconnect:
                log.info("the client went away", extra={"path": scope["path"]})
            except Exception as error:
                if started:
                    raise
                await self._refuse(scope, send_with_headers, error)

    async def _refuse(self, scope: Scope, send: Send, error: Exception) -> None:
        if isinstance(error, UNREACHABLE):
            log.warning("the database did not answer", extra={"path": scope["path"], "error": repr(error)})
            error = Unavailable()
        if isinstance(error, HTTPException):  # Starlette's own routes know two reasons to refuse
            allowed = (error.headers or {}).get("Allow", "")
            error = refusals.MethodNotAllowed(tuple(allowed.split(", "))) if allowed else Missing()
        if isinstance(error, Refusal):
            if isinstance(error, _WORTH_NOTING):
                # What they sent is left out: it may be a password in the wrong place.
                log.info("refused", extra={"path": scope["path"], "kind": type(error).__name__, "from": _peer(scope)})
            for message in _refusal(error):
                await send(message)
            return
        log.error("request failed", extra={"path": scope["path"]}, exc_info=error)
        body = _ENCODER.encode(Errors([FieldError("Something went wrong on our side")]))
        await send_answer(send, INTERNAL_ERROR, body)

    def _check_origin(self, scope: Scope) -> None:
        """Refuse requests that change something and come from another site's page.

        Source: OWASP Cross-Site Request Forgery Prevention, "Fetch Metadata" and "Origin" checks. Programs that send
        neither header are no browsers and carry no cookie by accident.
        """
        if scope["method"] in _SAFE_METHODS:
            return
        headers = scope["headers"]
        site = _first_bytes(headers, b"sec-fetch-site")
        if site is not None:
            if site not in _OWN_SITE:
                raise Forbidden("The request came from another site")
            return
        origin = _first_bytes(headers, b"origin")
        if origin is None or origin in self._own_origins:
            return
        host = _first_bytes(headers, b"host")
        if not host or origin.partition(b"://")[2] != host:
            raise Forbidden("The request came from another site")


def _by_path(routes: Sequence[BaseRoute]) -> dict[tuple[str, str], _Endpoint]:
    """Return the operations whose path has no parameters: one look instead of a pattern for each route."""
    return {
        (method, route.path): route.endpoint
        for route in routes
        if isinstance(route, Route) and isinstance(route.endpoint, _Endpoint) and not route.param_convertors
        for method in route.methods or ()
    }


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _first_bytes(headers: Sequence[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)


def _first(headers: Sequence[tuple[bytes, bytes]], wanted: bytes) -> str | None:
    found = _first_bytes(headers, wanted)
    return None if found is None else found.decode("latin-1")


def _done(scope: Scope) -> str:
    """Name what a request did, for its trace: a route, never a path, or there would be as many names as tickets."""
    endpoint = scope.get("endpoint")
    return endpoint.says if isinstance(endpoint, _Endpoint) else str(scope["method"])


async def _nothing_here(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise Missing


class _WrongMethod:
    """Refuses what a path has no operation for, naming what it has."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._allowed = tuple(sorted(each.method for each in operations))

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        raise refusals.MethodNotAllowed(self._allowed)


def api_routes(service: "Running", operations: Sequence[Operation]) -> list[Route]:
    """Return the Starlette routes that serve a running service's operations.

    A path's wrong methods are refused right after its own ones, before a wider path could take them for its own.
    """
    routes: list[Route] = []
    for path in dict.fromkeys(each.path for each in operations):
        own = [each for each in operations if each.path == path]
        routes += [Route(path, _Endpoint(service, each), methods=[each.method]) for each in own]
        routes.append(Route(path, _WrongMethod(own)))
    return routes


class _PlainApp:
    """An object, because Starlette would call a function with a request instead."""

    def __init__(self, endpoint: Callable[[Request], Awaitable[Answer]]) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in {"GET", "HEAD"}:
            raise refusals.MethodNotAllowed(("GET",))
        answer = await self._endpoint(Request(scope, receive))
        await send_answer(send, answer.status, answer.encoded(), answer.headers)


def plain_route(path: str, endpoint: Callable[[Request], Awaitable[Answer]]) -> Route:
    """Return a route to be read that is no operation of the API: a probe or a document."""
    return Route(path, _PlainApp(endpoint))
