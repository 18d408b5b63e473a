"""Mutated requests: each is a good one with up to three things wrong, made from a seed and from ids that exist."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

from starlette.types import Scope

from admitone.kernel import clock
from proof.clients import stripe_signature
from proof.fuzz import inputs

Headers = list[tuple[bytes, bytes]]

_NOT_IN_HEADERS: Final = b"\0\r\n"
_WEBHOOK_PATH: Final = "/api/payments/webhook"
# Requests to these paths end sessions, often all of a user.
_LEAVING: Final = ("sign", "password", "currentuser")


def octets(text: str) -> bytes:
    """Encode text that may contain lone surrogates."""
    return text.encode("utf-8", "surrogatepass")


@dataclass
class MutatedRequest:
    """One request, as a server would pass it to the application."""

    method: str = "GET"
    path: str = "/"
    query: str = ""
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    wrong: list[str] = field(default_factory=list)
    route: str = ""

    @property
    def scope(self) -> Scope:
        raw = octets(self.path)
        plain = quote(raw, safe="/%:@!$&'()*+,;=-._~").encode()
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": unquote(plain.decode()),
            "raw_path": plain,
            "query_string": quote(octets(self.query), safe="%&=+;/?:@!$'()*,-._~").encode(),
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


@dataclass(frozen=True)
class Route:
    """A route in: a method, a path with its parameters, and what is usually mutated there."""

    method: str
    path: str
    query: tuple[str, ...] = ()
    body: dict[str, Any] | None = None
    is_form: bool = False


def routes(document: dict[str, Any], pages: Sequence[tuple[str, str]]) -> list[Route]:
    """Return every route: the operations of the document, and the pages."""
    found = [Route("GET", path) for path in ("/api", "/api/openapi.json", "/health/live", "/health/ready")]
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            query = tuple(each["name"] for each in described["parameters"] if each["in"] == "query")
            body = None
            if "requestBody" in described:
                reference = described["requestBody"]["content"]["application/json"]["schema"].get("$ref", "")
                properties = schemas.get(reference.rpartition("/")[2], {}).get("properties", {})
                body = {name: inputs.GOOD[name] for name in properties}
            found.append(Route(method.upper(), path, query, body))
    for method, path in pages:
        is_form = method == "POST"
        fields = {name: inputs.GOOD[name] for name in inputs.FORMS.get(path, ()) if is_form}
        found.append(Route(method, path, inputs.QUERIES.get(path, ()), fields, is_form))
    return found


def field_names(document: dict[str, Any]) -> frozenset[str]:
    """Return every name that an error may have in `field`."""
    properties = [each.get("properties", {}) for each in document["components"]["schemas"].values()]
    parameters = [
        each["name"] for methods in document["paths"].values() for op in methods.values() for each in op["parameters"]
    ]
    return frozenset([*parameters, *(name for each in properties for name in each)])


def _weight(route: Route) -> int:
    """Return how often a route is chosen: a HEAD is a GET without its body, and hashing a password takes long."""
    if route.method == "HEAD" or {"password", "emailPassword"} & (route.body or {}).keys():
        return 1
    return 6 if route.path.startswith("/api/") else 3


@dataclass
class Known:
    """What exists in the marketplace at the moment, to be named in requests."""

    sessions: Sequence[str]
    """Of people who stay."""
    leaving: Sequence[str]
    """Of people who sign out, everywhere too, and change their password."""
    tickets: Sequence[str]
    orders: Sequence[str]
    payments: Sequence[tuple[str, str, str]] = ()
    """The ids of each: ours, Stripe's, and its order's."""
    fingerprint: str = ""
    webhook_secret: str = ""


@dataclass
class _Draft:
    """A request in the making: its path's parameters, its query and its fields are still apart."""

    request: MutatedRequest
    named: dict[str, str]
    query: dict[str, str]
    fields: dict[str, Any] | None


class Mutator:
    """Makes requests from a seed."""

    def __init__(self, seed: int, found: Sequence[Route], known: Known) -> None:
        self.random = Random(seed)
        self.known = known
        self._routes = [route for route in found for _ in range(_weight(route))]

    def request(self) -> MutatedRequest:
        random = self.random
        route = random.choice(self._routes)
        draft = self._good(route)
        mutations = (self._in_path, self._in_query, self._in_headers, self._in_cookie, self._in_fields, self._in_fields)
        for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
            random.choice(mutations)(draft)
        request = draft.request
        for name, value in draft.named.items():
            request.path = request.path.replace(f"{{{name}}}", value)
        if random.random() < 0.05:
            self._whole_path(request)
        request.query = request.query or urlencode({name: octets(value) for name, value in draft.query.items()})
        if route.path == _WEBHOOK_PATH and random.random() < 0.8:
            self._encode_webhook(request)
        elif draft.fields is not None and request.method != "GET":
            self._encode(request, draft.fields, is_form=route.is_form)
        if random.random() < 0.03:
            request.method = random.choice(inputs.METHODS)
            request.wrong.append("method")
        return request

    def _good(self, route: Route) -> _Draft:
        """Return a request with nothing wrong in it."""
        random, known = self.random, self.known
        named = {
            "id": random.choice(known.orders if "/orders" in route.path else known.tickets),
            "fingerprint": known.fingerprint,
            "name": random.choice(("style.css", "live.js", "nothing.js")),
            "anything:path": "nothing/here",
        }
        query = {name: str(inputs.GOOD[name]) for name in route.query if random.random() < 0.4}
        if "orderId" in route.query:
            query["orderId"] = random.choice(known.orders)
        fields = None if route.body is None else {**route.body}
        for name, ids in (("ticketId", known.tickets), ("orderId", known.orders)):
            if fields is not None and name in fields:
                fields[name] = random.choice(ids)
        request = MutatedRequest(route.method, route.path, route=f"{route.method} {route.path}")
        if random.random() < 0.85:
            leaves = any(part in route.path for part in _LEAVING)
            session = random.choice(known.leaving if leaves else known.sessions)
            request.headers.append((b"cookie", b"session=" + session.encode()))
        if route.method == "POST" and random.random() < 0.2:
            request.headers.append((b"idempotency-key", b"key-%d" % random.randrange(500)))
        return _Draft(request, named, query, fields)

    # What may be put in.

    def _text(self) -> str:
        random = self.random
        chosen = random.choice(inputs.TEXTS)
        match random.randrange(6):
            case 0:
                return chosen + inputs.MARKUP
            case 1:
                return chosen * random.randrange(1, 4)
            case 2:
                ends = random.choices((128, 0x10FFFF), k=random.randrange(20))
                return "".join(chr(random.randrange(end)) for end in ends)
            case _:
                return chosen

    def _octets(self) -> bytes:
        random = self.random
        return random.randbytes(random.randrange(40)) if random.random() < 0.4 else octets(self._text())

    def _value(self) -> Any:
        return self._text() if self.random.random() < 0.6 else self.random.choice(inputs.VALUES)

    # Where.

    def _in_path(self, draft: _Draft) -> None:
        name = self.random.choice(list(draft.named))
        text = self._text()[:4000]
        draft.named[name] = quote(octets(text), safe="") if self.random.random() < 0.7 else text
        draft.request.wrong.append("path")

    def _whole_path(self, request: MutatedRequest) -> None:
        paths: tuple[Callable[[str], str], ...] = (
            lambda path: path + "/", lambda path: "/" + path, lambda path: path.upper(), lambda path: path + "%0a",
            lambda path: path.replace("/", "%2f"), lambda path: path + "/../" + inputs.MARK, lambda path: path + "%00",
            lambda path: "/" + quote(octets(self._text()[:2000])),
        )  # fmt: skip
        request.path = self.random.choice(paths)(request.path)
        request.wrong.append("whole path")

    def _in_query(self, draft: _Draft) -> None:
        draft.query[self.random.choice([*inputs.GOOD, inputs.MARK])] = self._text()[:5000]
        if self.random.random() < 0.2:
            draft.request.query = (
                urlencode(draft.query, errors="replace") + "&" + self.random.choice(inputs.QUERY_PIECES)
            )
        draft.request.wrong.append("query")

    def _in_headers(self, draft: _Draft) -> None:
        name = self.random.choice(inputs.HEADERS)
        value = self._octets() if self.random.random() < 0.5 else self.random.choice(inputs.HEADER_VALUES).encode()
        draft.request.headers.append((name.encode(), value.translate(None, _NOT_IN_HEADERS)[:8000]))
        draft.request.wrong.append(name)

    def _in_cookie(self, draft: _Draft) -> None:
        random, headers = self.random, draft.request.headers
        token = bytearray(random.choice(self.known.sessions).encode())
        for _ in range(random.randrange(1, 4)):
            token[random.randrange(len(token))] = random.choice(b'A.=-_"\\;, \xff\x80\x01')
        value = random.choice(
            (bytes(token), self._octets(), b'"\\015\\012x: y"', b'"' + bytes(token) + b'"', b"", b"a.b.c", b"." * 3000)
        )
        cookie = b"session=" + value.translate(None, _NOT_IN_HEADERS)
        if random.random() < 0.3:
            cookie = b"; ".join((b"session=1", cookie, self._octets().translate(None, _NOT_IN_HEADERS)))
        draft.request.headers = [each for each in headers if each[0] != b"cookie"] + [(b"cookie", cookie[:8000])]
        draft.request.wrong.append("cookie")

    def _in_fields(self, draft: _Draft) -> None:
        fields, random = draft.fields, self.random
        if fields is None:
            self._in_path(draft)
            return
        match random.randrange(4):
            case 0 if fields:
                del fields[random.choice(list(fields))]
            case 1:
                fields[self._text()] = self._value()
            case _:
                fields[random.choice(list(fields or inputs.GOOD))] = self._value()
        draft.request.wrong.append("fields")

    # Bodies.

    def _encode(self, request: MutatedRequest, fields: dict[str, Any], *, is_form: bool) -> None:
        random = self.random
        if is_form:
            kind = b"application/x-www-form-urlencoded"
            encoded = urlencode([(octets(name), octets(str(value))) for name, value in fields.items()]).encode()
        else:
            kind = b"application/json"
            encoded = octets(json.dumps(fields, ensure_ascii=random.random() < 0.5))
            if random.random() < 0.05:
                encoded = encoded.replace(b"19.99", random.choice(inputs.NUMBERS).encode())
        if random.random() < 0.03:
            kind = random.choice(inputs.KINDS)
            request.wrong.append("kind")
        self._set_body(request, encoded, kind)

    def _encode_webhook(self, request: MutatedRequest) -> None:
        """Report on a payment as Stripe would, with things wrong inside, and mostly signed as Stripe signs."""
        random = self.random
        event = copy.deepcopy(inputs.WEBHOOK)
        event["id"] = f"evt_{random.randrange(2000)}"
        intent = event["data"]["object"]
        if self.known.payments:
            payment, intent["id"], order = random.choice(self.known.payments)
            intent["metadata"] |= {"payment_id": payment, "order_id": order}
        parts: tuple[dict[str, Any], ...] = (event, event, intent, intent, intent["metadata"])
        for _ in range(random.choice((0, 1, 1, 2))):
            part = random.choice(parts)
            part[random.choice([*part, self._text()])] = self._value()
            request.wrong.append("webhook")
        self._set_body(request, octets(json.dumps(event, ensure_ascii=random.random() < 0.5)), b"application/json")
        at_seconds = int(clock.now().timestamp()) - random.choice((0, 0, 0, 0, 10_000))
        signature = stripe_signature(request.body, self.known.webhook_secret, at_seconds)
        if random.random() < 0.1:
            signature = signature[: random.randrange(len(signature))] + self._text()
        request.headers.append((b"stripe-signature", octets(signature).translate(None, _NOT_IN_HEADERS)))

    def _set_body(self, request: MutatedRequest, encoded: bytes, kind: bytes) -> None:
        """Set the body, sometimes with some of its octets replaced or too many of them."""
        random = self.random
        if random.random() < 0.15:
            at = random.randrange(len(encoded) + 1)
            encoded = encoded[:at] + random.choice(inputs.PIECES) + encoded[at + random.randrange(3) :]
            request.wrong.append("octets")
        if random.random() < 0.02:
            encoded += b" " * 70_000
            request.wrong.append("size")
        request.headers += [(b"content-type", kind), (b"content-length", str(len(encoded)).encode())]
        request.body = encoded
