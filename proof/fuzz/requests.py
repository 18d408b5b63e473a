"""Sends mutated requests to the whole application without a network, and judges every response.

What must hold is in `faults_of`: no 5xx and nothing unhandled, the one error body below /api, the security headers,
and nothing of the input repeated where it could be read as markup.
"""

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from starlette.types import ASGIApp, Message

from proof.fuzz.inputs import MARK, MARKUP
from proof.fuzz.mutator import Headers, MutatedRequest
from proof.fuzz.stock import Target

_ERROR_FROM: Final = 400
_BROKEN_FROM: Final = 500
_BUSY: Final = 503
_BUSY_SECONDS: Final = 2.0
_RESPONSE_SECONDS_MAX: Final = 20.0
_AT_ONCE: Final = 12
_RENEW_AFTER: Final = 400
_UNSENDABLE: Final = re.compile(rb"[\x00-\x1f\x7f]")
_MARK: Final = MARK.encode()
_MARKUP: Final = MARKUP.encode()
_KINDS: Final = frozenset(
    {b"", b"application/json", b"text/html", b"text/event-stream", b"text/css", b"text/javascript", b"image/svg+xml"}
)
_EVERYWHERE: Final = {
    b"content-security-policy": b"default-src 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=()",
    b"cache-control": b"",
}
# The error that hostile input is expected to log; every other logged error is a fault.
EXPECTED_LOG: Final = "a webhook is not trusted"

_current: ContextVar[MutatedRequest | None] = ContextVar("current", default=None)


@dataclass
class ReceivedResponse:
    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    raised: BaseException | None = None


async def send(app: ASGIApp, request: MutatedRequest) -> ReceivedResponse:
    """Send a request and receive its whole response; a stream is closed as soon as it begins."""
    response = ReceivedResponse()
    gone: Message = {"type": "http.disconnect"}
    parts: Iterator[Message] = iter(({"type": "http.request", "body": request.body, "more_body": False}, gone))

    async def receive() -> Message:
        return next(parts, gone)

    async def receive_response(message: Message) -> None:
        if message["type"] == "http.response.start":
            response.status, response.headers = message["status"], list(message["headers"])
        else:
            response.body += message.get("body", b"")

    try:
        async with asyncio.timeout(_RESPONSE_SECONDS_MAX):
            await app(request.scope, receive, receive_response)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            raise
        response.raised = error
    return response


def faults_of(request: MutatedRequest, response: ReceivedResponse, fields: frozenset[str]) -> Iterator[str]:
    """Return what is wrong with a response; `fields` are the names that an error may have in `field`."""
    if response.raised is not None:
        yield f"unhandled: {response.raised!r}"
        return
    if response.status >= _BROKEN_FROM:
        yield f"status {response.status}"
    headers: dict[bytes, bytes] = {}
    for name, value in response.headers:
        headers.setdefault(name, value)
        if name != name.lower() or _UNSENDABLE.search(name) or _UNSENDABLE.search(value):
            yield f"a header that cannot be sent: {name!r}: {value!r}"
    for name, value in _EVERYWHERE.items():
        if name not in headers or not headers[name].startswith(value):
            yield f"without {name.decode()}"
    body = bytes(response.body)
    kind = headers.get(b"content-type", b"").partition(b";")[0]
    if response.status >= _ERROR_FROM and (request.scope["path"].startswith("/api/") or kind == b"application/json"):
        yield from _faults_of_error(body, kind, fields)
        if request.method != "HEAD" and (_MARK in body or any(_MARK in value for _, value in response.headers)):
            yield "repeats the input"
    if kind == b"text/html" and b"content-encoding" not in headers and _MARKUP in body:
        yield "the input is markup"
    if kind not in _KINDS:
        yield f"an unexpected content type: {kind!r}"
    location = headers.get(b"location")
    if location is not None and (not location.startswith(b"/") or location.startswith((b"//", b"/\\"))):
        yield f"redirects to another site: {location!r}"


def _faults_of_error(body: bytes, kind: bytes, fields: frozenset[str]) -> Iterator[str]:
    try:
        decoded = json.loads(body)
    except ValueError:
        yield f"an error that is not JSON: {body[:80]!r}"
        return
    is_whole = isinstance(decoded, dict) and list(decoded) == ["errors"] and decoded["errors"]
    if not is_whole or kind != b"application/json":
        yield f"not the one error body: {body[:80]!r}"
        return
    for each in decoded["errors"]:
        if not each.get("message") or each.keys() - {"message", "field"} or each.get("field", "email") not in fields:
            yield f"not the one error body: {each}"


@dataclass
class FuzzReport:
    """The outcome of many requests."""

    responses: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By route and status."""
    faults: dict[str, str] = field(default_factory=dict)
    """One example of each kind of fault."""
    busy: int = 0
    """Responses "busy, try again in a moment" that were another one a moment later; the same again is a fault."""

    def statuses(self, only_route: str = "") -> Counter[int]:
        """Count the responses of a route, or all, by status."""
        counts: Counter[int] = Counter()
        for (route, status), count in self.responses.items():
            counts[status] += count if only_route in {"", route} else 0
        return +counts

    def add_fault(self, fault: str, request: MutatedRequest | None = None) -> None:
        at = f" at {request.route}" if request is not None else ""
        self.faults.setdefault(f"{fault[:160]}{at}", str(request) if request is not None else "outside of a request")


class _ErrorLog(logging.Handler):
    """Counts what is logged as an error as a fault of the request it is about."""

    def __init__(self, report: FuzzReport) -> None:
        super().__init__(logging.ERROR)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg != EXPECTED_LOG:
            cause = record.exc_info[1] if record.exc_info else None
            self._report.add_fault(f"logged: {record.getMessage()}: {cause!r}", _current.get())


async def send_mutated(app: ASGIApp, target: Target, count: int, report: FuzzReport) -> None:
    """Send `count` mutated requests, some at once; what was used up is renewed after so many of them."""
    error_log, root, left = _ErrorLog(report), logging.getLogger(), iter(range(count))

    async def send_some() -> None:
        for number in left:
            if number % _RENEW_AFTER == _RENEW_AFTER - 1:
                target.mutator.known = await target.stock.renew()
            request = target.mutator.request()
            _current.set(request)
            response = await send(app, request)
            if response.status == _BUSY:
                report.busy += 1
                await asyncio.sleep(_BUSY_SECONDS)
                response = await send(app, request)
            report.responses[request.route, response.status] += 1
            for fault in faults_of(request, response, target.fields):
                report.add_fault(fault, request)
            _current.set(None)

    root.addHandler(error_log)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(send_some())
    finally:
        root.removeHandler(error_log)
