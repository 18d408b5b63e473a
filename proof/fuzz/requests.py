"""Mutated requests: each is a good one with a few things wrong, sent to the whole application without a network.

What is sent depends on the seed and on the ids of what there is. What must hold for every answer is in `faults`: no 5xx
and nothing unhandled, the one error body below /api, the security headers, nothing of what came in repeated where it
could be read as markup.
"""

import asyncio
import copy
import hashlib
import hmac
import json
import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

from starlette.types import ASGIApp, Message, Scope

from admitone.kernel import clock

Headers = list[tuple[bytes, bytes]]

# Stands in whatever is made up, so that it is noticed where it comes out again; with the bracket it would be markup.
MARK: Final = "zq7mark"
MARKUP: Final = f"<{MARK}"
SOME_ID: Final = "01980a7e-5a4c-7c31-9f0e-3b1d2c4f5a66"
_ERROR_FROM: Final = 400
_BROKEN_FROM: Final = 500
_BUSY: Final = 503
_BUSY_SECONDS: Final = 2.0
_UNSENDABLE: Final = re.compile(rb"[\x00-\x1f\x7f]")
_NOT_IN_HEADERS: Final = b"\0\r\n"
_MARK: Final = MARK.encode()
_MARKUP: Final = MARKUP.encode()
_KINDS: Final = frozenset(
    {
        b"",
        b"application/json",
        b"text/html",
        b"text/event-stream",
        b"text/css",
        b"text/javascript",
        b"image/svg+xml",
    }
)

EVERYWHERE: Final = {
    b"content-security-policy": b"default-src 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=()",
    b"cache-control": b"",
}

# What has broken somebody's software before, with marks in it where it would show.
TEXTS: Final = (
    "", " ", "\0", "\r\nset-cookie: a=b", "\x1b[31m", "\x7f", "\ud800", "\udfff\ud800", "\ufeff", "\ufffe", "\u202e",
    "\u200b", "e\u0301" * 300, "\U0001f469\u200d\U0001f466", "İ", "ß", "ſ", "ﷺ" * 40, "a" * 300, "a" * 70_000, "%00",
    "%", "%zz", "%u0041", "../../etc/passwd", "..", ".", "//", "/\\", "\\\\host\\x", "mine", "*", "-1", "0", "1e309",
    "1e999999999", "-0", "NaN", "Infinity", "9" * 400, "0x10", "٣", "true", "null", "[]", "{}", "' OR '1'='1",
    "';SELECT pg_sleep(1)--", '" OR 1=1', "$1", "%s", "{0}", "{{7*7}}", "${jndi:ldap://x}", "`id`", "|id",
    "javascript:alert(1)", "//evil.example", "https://evil.example/", "/\tevil", "0001-01-01T00:00",
    "9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00+23:59", "2027-05-01T19:30:00Z", "2027-02-30T00:00:00Z",
    "10:00:00", "-" * 36, SOME_ID, SOME_ID.upper(), f"{{{SOME_ID}}}", SOME_ID + "\n",
    "00000000-0000-0000-0000-000000000000", f"{MARKUP}>", f'">{MARKUP} x=', f"'{MARKUP}", f"a@b.c{MARK}",
    f"{MARK}@example.com", "tok_visa", "pm_card_visa",
)  # fmt: skip
VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 0.5, 0.1, 19.99, 1e-7, 2**31, 2**63, -(2**63) - 1, 10**30, [], {}, [[]], [None],
    {"": 0}, {"$ne": 1}, {"__proto__": 1}, [["x"] * 50], [TEXTS[0]] * 100, "\ud800", "\0",
)  # fmt: skip
_NUMBERS: Final = (
    "1e309",
    "-1e309",
    "1e-400",
    "1E400",
    "NaN",
    "-Infinity",
    "0" * 50,
    "9" * 5000,
    "1.0000000000000000001",
    "-0.0",
    "01",
    "1.",
    ".5",
)
_PIECES: Final = (
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"[" * 2000,
    b'{"a":' * 50,
    b'"',
    b"\\ud800",
    b"\\u0000",
    b"}",
    b",",
    b"//",
    b"'",
    b"\xef\xbb\xbf",
)
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "X")
_HEADERS: Final = (
    "accept-encoding", "accept", "authorization", "content-length", "content-type", "cookie", "forwarded", "host",
    "idempotency-key", "if-match", "if-none-match", "last-event-id", "origin", "range", "referer", "sec-fetch-site",
    "stripe-signature", "traceparent", "transfer-encoding", "upgrade", "user-agent", "x-forwarded-for",
    "x-forwarded-host", "x-forwarded-proto", "x-http-method-override", "x-original-url",
)  # fmt: skip


@dataclass
class Sent:
    """One request, as a server would hand it over."""

    method: str = "GET"
    path: str = "/"
    query: str = ""
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    wrong: list[str] = field(default_factory=list)
    way: str = ""

    @property
    def scope(self) -> Scope:
        raw = self.path.encode("utf-8", "surrogatepass")
        plain = quote(raw, safe="/%:@!$&'()*+,;=-._~").encode()
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": unquote(plain.decode()),
            "raw_path": plain,
            "query_string": quote(self.query.encode("utf-8", "surrogatepass"), safe="%&=+;/?:@!$'()*,-._~").encode(),
            "root_path": "",
            "headers": [(b"host", b"127.0.0.1:8000"), *self.headers],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }

    def __str__(self) -> str:
        headers = " ".join(f"{name.decode()}={value[:60]!r}" for name, value in self.headers)
        what = ", ".join(self.wrong)
        return f"{self.method} {self.path[:80]!r} ?{self.query[:80]!r} {headers} {self.body[:200]!r} ({what})"


@dataclass
class Got:
    """The answer to it."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    raised: BaseException | None = None


async def send(app: ASGIApp, sent: Sent, seconds: float = 20.0) -> Got:
    """Send a request and take its whole answer; a stream is left as soon as it begins."""
    got = Got()
    parts: Iterator[Message] = iter(
        ({"type": "http.request", "body": sent.body, "more_body": False}, {"type": "http.disconnect"})
    )
    gone: Message = {"type": "http.disconnect"}

    async def receive() -> Message:
        return next(parts, gone)

    async def receive_answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            got.status, got.headers = message["status"], list(message["headers"])
        else:
            got.body += message.get("body", b"")

    try:
        async with asyncio.timeout(seconds):
            await app(sent.scope, receive, receive_answer)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            raise
        got.raised = error
    return got


def faults(sent: Sent, got: Got, fields: frozenset[str]) -> Iterator[str]:
    """Say what is wrong with an answer."""
    if got.raised is not None:
        yield f"unhandled: {got.raised!r}"
        return
    if got.status >= _BROKEN_FROM:
        yield f"status {got.status}"
    told: dict[bytes, bytes] = {}
    for name, value in got.headers:
        told.setdefault(name, value)
        if name != name.lower() or _UNSENDABLE.search(name) or _UNSENDABLE.search(value):
            yield f"a header that cannot be sent: {name!r}: {value!r}"
    for name, value in EVERYWHERE.items():
        if name not in told or not told[name].startswith(value):
            yield f"without {name.decode()}"
    body = bytes(got.body)
    kind = told.get(b"content-type", b"").partition(b";")[0]
    if got.status >= _ERROR_FROM and (sent.scope["path"].startswith("/api/") or kind == b"application/json"):
        yield from _faults_of_error(body, kind, fields)
        if sent.method != "HEAD" and (_MARK in body or any(_MARK in value for _, value in got.headers)):
            yield "repeats what came in"
    if kind == b"text/html" and b"content-encoding" not in told and _MARKUP in body:
        yield "what came in is markup"
    if kind not in _KINDS:
        yield f"an unexpected kind of answer: {kind!r}"
    location = told.get(b"location")
    if location is not None and (not location.startswith(b"/") or location.startswith((b"//", b"/\\"))):
        yield f"leads elsewhere: {location!r}"


def _faults_of_error(body: bytes, kind: bytes, fields: frozenset[str]) -> Iterator[str]:
    try:
        told = json.loads(body)
    except ValueError:
        yield f"an error that is no JSON: {body[:80]!r}"
        return
    is_whole = isinstance(told, dict) and list(told) == ["errors"] and told["errors"]
    if not is_whole or kind != b"application/json":
        yield f"not the one error body: {body[:80]!r}"
        return
    for each in told["errors"]:
        if not each.get("message") or each.keys() - {"message", "field"} or each.get("field", "email") not in fields:
            yield f"not the one error body: {each}"


@dataclass(frozen=True)
class Way:
    """A way in: a method, a path with its parameters, and what is usually sent there."""

    method: str
    path: str
    query: tuple[str, ...] = ()
    body: dict[str, Any] | None = None
    is_form: bool = False


# Examples for the fields of bodies and forms, by their names.
GOOD: Final[dict[str, Any]] = {
    "email": "alice@example.com", "password": "correct horse battery staple",
    "currentPassword": "correct horse battery staple", "emailPassword": "correct horse battery staple",
    "title": "Fado night", "price": 19.99, "faceValue": 25, "eventDate": "2027-05-01T19:30:00Z",
    "eventInstant": "2027-05-01T19:30:00Z", "venue": "Clube", "section": "A", "row": "3", "seat": "12",
    "note": "Row by the door", "ticketId": SOME_ID,
    "orderId": SOME_ID, "token": "tok_visa", "limit": "20", "cursor": "", "q": "fado", "sort": "price",
    "key": "a-key-of-mine", "etag": '"0"', "next": "/orders", "was": "20.00", "payment_intent": "pi_1", "back": "bank",
    "since": "0-0", "done": "email",
}  # fmt: skip
# A webhook that fits its payment and says nothing that could be believed: `processing` is none of the ends.
_WEBHOOK: Final[dict[str, Any]] = {
    "id": "evt_1", "object": "event", "type": "payment_intent.processing", "livemode": False, "created": 1_780_000_000,
    "data": {
        "object": {
            "id": "pi_1", "object": "payment_intent", "status": "processing", "amount": 1999, "currency": "usd",
            "created": 1_780_000_000, "livemode": False, "amount_received": 0, "client_secret": None,
            "latest_charge": {"amount_refunded": 0}, "last_payment_error": {"code": "x", "message": "y"},
            "metadata": {"order_id": SOME_ID, "payment_id": SOME_ID, "attempt": "1"},
        },
    },
}  # fmt: skip
_WEBHOOK_PATH: Final = "/api/payments/webhook"
# Who comes this way ends sessions, often all that somebody has.
_LEAVING: Final = ("sign", "password", "currentuser")
_FORMS: Final[dict[str, tuple[str, ...]]] = {
    "/auth/signup": ("email", "password", "next", "key"),
    "/auth/signin": ("email", "password", "next"),
    "/auth/signout": (),
    "/account/email": ("email", "emailPassword"),
    "/account/password": ("currentPassword", "password"),
    "/account/signout-everywhere": (),
    "/tickets/new": (
        "title",
        "price",
        "faceValue",
        "eventDate",
        "eventInstant",
        "venue",
        "section",
        "row",
        "seat",
        "note",
        "key",
    ),
    "/tickets/{id}/edit": (
        "title",
        "price",
        "faceValue",
        "eventDate",
        "eventInstant",
        "venue",
        "section",
        "row",
        "seat",
        "note",
        "etag",
    ),
    "/tickets/{id}/buy": ("price", "key"),
    "/orders/{id}/pay": ("token", "key"),
    "/orders/{id}/cancel": (),
}
_QUERIES: Final[dict[str, tuple[str, ...]]] = {
    "/": ("q", "sort", "cursor"), "/auth/signup": ("next",), "/auth/signin": ("next",), "/account": ("done",),
    "/sell": ("cursor",), "/orders": ("cursor",), "/orders/{id}": ("payment_intent", "back", "was"),
    "/live": ("since",),
}  # fmt: skip


def ways(document: dict[str, Any], pages: Sequence[tuple[str, str]]) -> list[Way]:
    """Return every way in: the operations of the document, and the pages."""
    found = [Way("GET", path) for path in ("/api", "/api/openapi.json", "/health/live", "/health/ready")]
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            query = tuple(each["name"] for each in described["parameters"] if each["in"] == "query")
            body = None
            if "requestBody" in described:
                reference = described["requestBody"]["content"]["application/json"]["schema"].get("$ref", "")
                properties = schemas.get(reference.rpartition("/")[2], {}).get("properties", {})
                body = {name: GOOD[name] for name in properties}
            found.append(Way(method.upper(), path, query, body))
    for method, path in pages:
        fields = _FORMS.get(path, ()) if method == "POST" else ()
        found.append(Way(method, path, _QUERIES.get(path, ()), {name: GOOD[name] for name in fields}, method == "POST"))
    return found


def field_names(document: dict[str, Any]) -> frozenset[str]:
    """Return every name that an error may put the blame on."""
    properties = [each.get("properties", {}) for each in document["components"]["schemas"].values()]
    parameters = [
        each["name"] for methods in document["paths"].values() for op in methods.values() for each in op["parameters"]
    ]
    return frozenset([*parameters, *(name for each in properties for name in each)])


def _worth(way: Way) -> int:
    """Return how often one is taken: a HEAD is a GET whose body nobody reads, and hashing a password takes long."""
    if way.method == "HEAD" or {"password", "emailPassword"} & (way.body or {}).keys():
        return 1
    return 6 if way.path.startswith("/api/") else 3


@dataclass
class Known:
    """What there is in the marketplace at the moment, to be named in requests."""

    sessions: Sequence[str]
    """Of people who stay."""
    leaving: Sequence[str]
    """Of people who sign out, everywhere too, and change their password."""
    tickets: Sequence[str]
    orders: Sequence[str]
    payments: Sequence[tuple[str, str, str]] = ()
    """Each with Stripe's id of it and its order's."""
    fingerprint: str = ""
    webhook_secret: str = ""


class Mutator:
    """Makes requests from a seed, of what is known."""

    def __init__(self, seed: int, found: Sequence[Way], known: Known) -> None:
        self.dice = random.Random(seed)
        self.known = known
        self._ways = [way for way in found for _ in range(_worth(way))]

    def request(self) -> Sent:
        dice, known = self.dice, self.known
        way = dice.choice(self._ways)
        sent = Sent(way.method, way.path, way=f"{way.method} {way.path}")
        body = None if way.body is None else {**way.body}
        named = {
            "id": dice.choice(known.orders if "/orders" in way.path else known.tickets),
            "fingerprint": known.fingerprint,
            "name": dice.choice(("style.css", "live.js", "nothing.js")),
        }
        named["anything:path"] = "nothing/here"
        query = {name: str(GOOD[name]) for name in way.query if dice.random() < 0.4}
        if "orderId" in way.query:
            query["orderId"] = dice.choice(known.orders)
        if body is not None:
            for name, ids in (("ticketId", known.tickets), ("orderId", known.orders)):
                body |= {name: dice.choice(ids)} if name in body else {}
        if dice.random() < 0.85:
            sent.headers.append((b"cookie", b"session=" + self._session(way).encode()))
        if way.method == "POST" and dice.random() < 0.2:
            sent.headers.append((b"idempotency-key", b"key-%d" % dice.randrange(500)))
        for _ in range(dice.choice((0, 1, 1, 1, 2, 3))):
            dice.choice(
                (self._in_path, self._in_query, self._in_headers, self._in_cookie, self._in_fields, self._in_fields)
            )(sent, named, query, body)
        for name, value in named.items():
            sent.path = sent.path.replace(f"{{{name}}}", value)
        if dice.random() < 0.05:
            self._whole_path(sent)
        sent.query = sent.query or urlencode({k: v.encode("utf-8", "surrogatepass") for k, v in query.items()})
        if way.path == _WEBHOOK_PATH and dice.random() < 0.8:
            self._encode_webhook(sent)
        elif body is not None and sent.method != "GET":
            self._encode(sent, body, is_form=way.is_form)
        if dice.random() < 0.03:
            sent.method = dice.choice(_METHODS)
            sent.wrong.append("method")
        return sent

    def _session(self, way: Way) -> str:
        leaves = any(part in way.path for part in _LEAVING)
        return self.dice.choice(self.known.leaving if leaves else self.known.sessions)

    def text(self) -> str:
        dice = self.dice
        chosen = dice.choice(TEXTS)
        match dice.randrange(6):
            case 0:
                return chosen + MARKUP
            case 1:
                return chosen * dice.randrange(1, 4)
            case 2:
                return "".join(
                    chr(dice.choice((dice.randrange(128), dice.randrange(0x10FFFF)))) for _ in range(dice.randrange(20))
                )
            case _:
                return chosen

    def _value(self) -> Any:
        return self.text() if self.dice.random() < 0.6 else self.dice.choice(VALUES)

    def _in_path(self, sent: Sent, named: dict[str, str], _query: dict[str, str], _body: Any) -> None:
        name = self.dice.choice(list(named))
        text = self.text()[:4000]
        named[name] = quote(text.encode("utf-8", "surrogatepass"), safe="") if self.dice.random() < 0.7 else text
        sent.wrong.append("path")

    def _whole_path(self, sent: Sent) -> None:
        ways_to: tuple[Callable[[str], str], ...] = (
            lambda path: path + "/", lambda path: "/" + path, lambda path: path.upper(), lambda path: path + "%0a",
            lambda path: path.replace("/", "%2f"), lambda path: path + "/../" + MARK, lambda path: path + "%00",
            lambda path: "/" + quote(self.text()[:2000].encode("utf-8", "surrogatepass")),
        )  # fmt: skip
        sent.path = self.dice.choice(ways_to)(sent.path)
        sent.wrong.append("whole path")

    def _in_query(self, sent: Sent, _named: dict[str, str], query: dict[str, str], _body: Any) -> None:
        dice = self.dice
        name = dice.choice([*GOOD, MARK])
        query[name] = self.text()[:5000]
        if dice.random() < 0.2:
            piece = dice.choice(
                (
                    "&&&",
                    "=",
                    "a=1&a=2",
                    "limit=1&limit=2",
                    "q=%ff",
                    "q=%zz",
                    "%00=%00",
                    ";",
                    "&".join(["x=1"] * 50),
                    f"q={MARK}%",
                )
            )
            sent.query = urlencode(query, errors="replace") + "&" + piece
        sent.wrong.append("query")

    def _in_headers(self, sent: Sent, _named: dict[str, str], _query: dict[str, str], _body: Any) -> None:
        dice = self.dice
        name = dice.choice(_HEADERS)
        value = self._octets() if dice.random() < 0.5 else dice.choice(_HEADER_VALUES).encode()
        sent.headers.append((name.encode(), value.translate(None, _NOT_IN_HEADERS)[:8000]))
        sent.wrong.append(name)

    def _octets(self) -> bytes:
        dice = self.dice
        return (
            dice.randbytes(dice.randrange(40)) if dice.random() < 0.4 else self.text().encode("utf-8", "surrogatepass")
        )

    def _in_cookie(self, sent: Sent, _named: dict[str, str], _query: dict[str, str], _body: Any) -> None:
        dice = self.dice
        token = bytearray(dice.choice(self.known.sessions).encode())
        for _ in range(dice.randrange(1, 4)):
            token[dice.randrange(len(token))] = dice.choice(b'A.=-_"\\;, \xff\x80\x01')
        value = dice.choice(
            (bytes(token), self._octets(), b'"\\015\\012x: y"', b'"' + bytes(token) + b'"', b"", b"a.b.c", b"." * 3000)
        )
        cookie = b"session=" + value.translate(None, _NOT_IN_HEADERS)
        if dice.random() < 0.3:
            cookie = b"; ".join((b"session=1", cookie, self._octets().translate(None, _NOT_IN_HEADERS)))
        sent.headers = [each for each in sent.headers if each[0] != b"cookie"] + [(b"cookie", cookie[:8000])]
        sent.wrong.append("cookie")

    def _in_fields(self, sent: Sent, named: dict[str, str], query: dict[str, str], body: dict[str, Any] | None) -> None:
        if body is None:
            self._in_path(sent, named, query, body)
            return
        dice = self.dice
        match dice.randrange(4):
            case 0 if body:
                del body[dice.choice(list(body))]
            case 1:
                body[self.text()] = self._value()
            case _ if body:
                body[dice.choice(list(body))] = self._value()
            case _:
                body[dice.choice(list(GOOD))] = self._value()
        sent.wrong.append("fields")

    def _encode(self, sent: Sent, body: dict[str, Any], *, is_form: bool) -> None:
        dice = self.dice
        if is_form:
            pairs = [
                (k.encode("utf-8", "surrogatepass"), str(v).encode("utf-8", "surrogatepass")) for k, v in body.items()
            ]
            encoded = urlencode(pairs).encode()
        else:
            encoded = json.dumps(body, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
            if dice.random() < 0.05:
                encoded = encoded.replace(b"19.99", dice.choice(_NUMBERS).encode())
        encoded = self._in_octets(sent, encoded)
        kind = b"application/x-www-form-urlencoded" if is_form else b"application/json"
        if dice.random() < 0.03:
            kind = dice.choice(
                (b"text/plain", b"multipart/form-data; boundary=x", b"", b"application/json; charset=utf-16", b"\xff")
            )
            sent.wrong.append("kind")
        sent.headers += [(b"content-type", kind), (b"content-length", str(len(encoded)).encode())]
        sent.body = encoded

    def _encode_webhook(self, sent: Sent) -> None:
        """Tell of a payment as Stripe would, with things wrong inside, and mostly signed as Stripe signs."""
        dice = self.dice
        told = copy.deepcopy(_WEBHOOK)
        told["id"] = f"evt_{dice.randrange(2000)}"
        intent = told["data"]["object"]
        if self.known.payments:
            payment, intent["id"], order = dice.choice(self.known.payments)
            intent["metadata"] |= {"payment_id": payment, "order_id": order}
        parts: tuple[dict[str, Any], ...] = (told, told, intent, intent, intent["metadata"])
        for _ in range(dice.choice((0, 1, 1, 2))):
            part = dice.choice(parts)
            part[dice.choice([*part, self.text()])] = self._value()
            sent.wrong.append("webhook")
        encoded = json.dumps(told, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
        encoded = self._in_octets(sent, encoded)
        at = int(clock.now().timestamp()) - dice.choice((0, 0, 0, 0, 10_000))
        signed = stripe_signature(encoded, self.known.webhook_secret, at)
        if dice.random() < 0.1:
            signed = signed[: dice.randrange(len(signed))] + self.text()
        sent.headers += [
            (b"stripe-signature", signed.encode("utf-8", "surrogatepass").translate(None, _NOT_IN_HEADERS)),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(encoded)).encode()),
        ]
        sent.body = encoded

    def _in_octets(self, sent: Sent, encoded: bytes) -> bytes:
        dice = self.dice
        if dice.random() < 0.15:
            at = dice.randrange(len(encoded) + 1)
            encoded = encoded[:at] + dice.choice(_PIECES) + encoded[at + dice.randrange(3) :]
            sent.wrong.append("octets")
        if dice.random() < 0.02:
            encoded += b" " * 70_000
            sent.wrong.append("size")
        return encoded


def stripe_signature(body: bytes, secret: str, at_seconds: int) -> str:
    """Sign a webhook as Stripe does. Source: Stripe documentation, "Verify webhook signatures manually"."""
    signature = hmac.new(secret.encode(), b"%d.%b" % (at_seconds, body), hashlib.sha256).hexdigest()
    return f"t={at_seconds},v1={signature}"


_HEADER_VALUES: Final = (
    "", "*", '"0"', 'W/"0"', "same-origin", "cross-site", "null", "http://127.0.0.1:8000", "https://evil.example",
    "gzip", "a" * 300, "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "t=1,v1=" + "0" * 64, "t=,v1=", f"v1={MARK}",
    "bytes=0-1", "127.0.0.1, ::1", "unknown", "999999999999999999999", "-1", MARKUP, "application/json", "chunked",
    "websocket", "0-0", "x-99999999999999999999", "t=1780000000,v1=\u00ff",
)  # fmt: skip


# What the edges and jobs are to say of hostile input; everything else that is logged as an error is a finding.
_FORESEEN: Final = ("a webhook is not trusted",)
_answering: ContextVar[Sent | None] = ContextVar("answering", default=None)


class _Errors(logging.Handler):
    """Notes what is logged as an error, with the request it is about: that is how edges tell of surprises."""

    def __init__(self, report: "Report") -> None:
        super().__init__(logging.ERROR)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg in _FORESEEN:
            return
        cause = record.exc_info[1] if record.exc_info else None
        self._report.found(f"logged: {record.getMessage()}: {cause!r}", _answering.get())


@dataclass
class Report:
    """What came of many requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    ways: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    findings: dict[str, str] = field(default_factory=dict)
    busy: int = 0
    """Answers "busy, try again in a moment" that were another one a moment later; the same again is a fault."""

    @property
    def total(self) -> int:
        return self.statuses.total()

    def found(self, fault: str, sent: Sent | None) -> None:
        """Keep one example of each kind of fault."""
        at = f" at {sent.way}" if sent is not None else ""
        self.findings.setdefault(f"{fault[:160]}{at}", str(sent) if sent is not None else "behind no request")

    def add(self, other: "Report") -> None:
        """Take what came of other requests in."""
        self.statuses += other.statuses
        self.busy += other.busy
        for way, statuses in other.ways.items():
            self.ways[way] += statuses
        self.findings = other.findings | self.findings


async def run(
    app: ASGIApp,
    mutator: Mutator,
    fields: frozenset[str],
    count: int,
    *,
    at_once: int = 12,
    renew: Callable[[], Awaitable[Known]] | None = None,
    renew_after: int = 400,
) -> Report:
    """Send `count` requests, some at once; return the answers' statuses and one example of each kind of fault.

    What was used up is replaced after so many requests: sessions that ended, tickets that are sold.
    """
    report = Report()
    errors = _Errors(report)
    root = logging.getLogger()
    root.addHandler(errors)
    left = iter(range(count))

    async def ask() -> None:
        for number in left:
            if renew is not None and number % renew_after == renew_after - 1:
                mutator.known = await renew()
            sent = mutator.request()
            _answering.set(sent)
            got = await send(app, sent)
            if got.status == _BUSY:
                report.busy += 1
                await asyncio.sleep(_BUSY_SECONDS)
                got = await send(app, sent)
            report.statuses[got.status] += 1
            report.ways[sent.way][got.status] += 1
            for fault in faults(sent, got, fields):
                report.found(fault, sent)
            _answering.set(None)

    try:
        async with asyncio.TaskGroup() as asking:
            for _ in range(at_once):
                asking.create_task(ask())
    finally:
        root.removeHandler(errors)
    return report
