"""Mutated requests: each is a good one with up to three things wrong, made from a seed and from ids that exist."""

import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

from starlette.types import Scope

from admitone.kernel import clock
from proof.fuzz.inputs import (
    FORMS,
    GOOD,
    HEADER_VALUES,
    HEADERS,
    MARK,
    MARKUP,
    METHODS,
    NUMBERS,
    PIECES,
    QUERIES,
    QUERY_PIECES,
    TEXTS,
    VALUES,
    WEBHOOK,
)
from proof.webhooks import stripe_signature

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
                body = {name: GOOD[name] for name in properties}
            found.append(Route(method.upper(), path, query, body))
    for method, path in pages:
        fields = FORMS.get(path, ()) if method == "POST" else ()
        found.append(
            Route(method, path, QUERIES.get(path, ()), {name: GOOD[name] for name in fields}, method == "POST")
        )
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


class Mutator:
    """Makes requests from a seed."""

    def __init__(self, seed: int, found: Sequence[Route], known: Known) -> None:
        self.dice = random.Random(seed)
        self.known = known
        self._routes = [route for route in found for _ in range(_weight(route))]

    def request(self) -> MutatedRequest:
        dice, known = self.dice, self.known
        route = dice.choice(self._routes)
        mutated = MutatedRequest(route.method, route.path, route=f"{route.method} {route.path}")
        body = None if route.body is None else {**route.body}
        named = {
            "id": dice.choice(known.orders if "/orders" in route.path else known.tickets),
            "fingerprint": known.fingerprint,
            "name": dice.choice(("style.css", "live.js", "nothing.js")),
        }
        named["anything:path"] = "nothing/here"
        query = {name: str(GOOD[name]) for name in route.query if dice.random() < 0.4}
        if "orderId" in route.query:
            query["orderId"] = dice.choice(known.orders)
        if body is not None:
            for name, ids in (("ticketId", known.tickets), ("orderId", known.orders)):
                body |= {name: dice.choice(ids)} if name in body else {}
        if dice.random() < 0.85:
            mutated.headers.append((b"cookie", b"session=" + self._session(route).encode()))
        if route.method == "POST" and dice.random() < 0.2:
            mutated.headers.append((b"idempotency-key", b"key-%d" % dice.randrange(500)))
        for _ in range(dice.choice((0, 1, 1, 1, 2, 3))):
            dice.choice(
                (self._in_path, self._in_query, self._in_headers, self._in_cookie, self._in_fields, self._in_fields)
            )(mutated, named, query, body)
        for name, value in named.items():
            mutated.path = mutated.path.replace(f"{{{name}}}", value)
        if dice.random() < 0.05:
            self._whole_path(mutated)
        mutated.query = mutated.query or urlencode({name: octets(value) for name, value in query.items()})
        if route.path == _WEBHOOK_PATH and dice.random() < 0.8:
            self._encode_webhook(mutated)
        elif body is not None and mutated.method != "GET":
            self._encode(mutated, body, is_form=route.is_form)
        if dice.random() < 0.03:
            mutated.method = dice.choice(METHODS)
            mutated.wrong.append("method")
        return mutated

    def _session(self, route: Route) -> str:
        leaves = any(part in route.path for part in _LEAVING)
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

    def _in_path(self, mutated: MutatedRequest, named: dict[str, str], _query: dict[str, str], _body: Any) -> None:
        name = self.dice.choice(list(named))
        text = self.text()[:4000]
        named[name] = quote(octets(text), safe="") if self.dice.random() < 0.7 else text
        mutated.wrong.append("path")

    def _whole_path(self, mutated: MutatedRequest) -> None:
        paths: tuple[Callable[[str], str], ...] = (
            lambda path: path + "/", lambda path: "/" + path, lambda path: path.upper(), lambda path: path + "%0a",
            lambda path: path.replace("/", "%2f"), lambda path: path + "/../" + MARK, lambda path: path + "%00",
            lambda path: "/" + quote(octets(self.text()[:2000])),
        )  # fmt: skip
        mutated.path = self.dice.choice(paths)(mutated.path)
        mutated.wrong.append("whole path")

    def _in_query(self, mutated: MutatedRequest, _named: dict[str, str], query: dict[str, str], _body: Any) -> None:
        dice = self.dice
        name = dice.choice([*GOOD, MARK])
        query[name] = self.text()[:5000]
        if dice.random() < 0.2:
            piece = dice.choice(QUERY_PIECES)
            mutated.query = urlencode(query, errors="replace") + "&" + piece
        mutated.wrong.append("query")

    def _in_headers(self, mutated: MutatedRequest, _named: dict[str, str], _query: dict[str, str], _body: Any) -> None:
        dice = self.dice
        name = dice.choice(HEADERS)
        value = self._octets() if dice.random() < 0.5 else dice.choice(HEADER_VALUES).encode()
        mutated.headers.append((name.encode(), value.translate(None, _NOT_IN_HEADERS)[:8000]))
        mutated.wrong.append(name)

    def _octets(self) -> bytes:
        dice = self.dice
        return dice.randbytes(dice.randrange(40)) if dice.random() < 0.4 else octets(self.text())

    def _in_cookie(self, mutated: MutatedRequest, _named: dict[str, str], _query: dict[str, str], _body: Any) -> None:
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
        mutated.headers = [each for each in mutated.headers if each[0] != b"cookie"] + [(b"cookie", cookie[:8000])]
        mutated.wrong.append("cookie")

    def _in_fields(
        self, mutated: MutatedRequest, named: dict[str, str], query: dict[str, str], body: dict[str, Any] | None
    ) -> None:
        if body is None:
            self._in_path(mutated, named, query, body)
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
        mutated.wrong.append("fields")

    def _encode(self, mutated: MutatedRequest, body: dict[str, Any], *, is_form: bool) -> None:
        dice = self.dice
        if is_form:
            pairs = [(octets(name), octets(str(value))) for name, value in body.items()]
            encoded = urlencode(pairs).encode()
        else:
            encoded = octets(json.dumps(body, ensure_ascii=dice.random() < 0.5))
            if dice.random() < 0.05:
                encoded = encoded.replace(b"19.99", dice.choice(NUMBERS).encode())
        encoded = self._in_octets(mutated, encoded)
        kind = b"application/x-www-form-urlencoded" if is_form else b"application/json"
        if dice.random() < 0.03:
            kind = dice.choice(
                (b"text/plain", b"multipart/form-data; boundary=x", b"", b"application/json; charset=utf-16", b"\xff")
            )
            mutated.wrong.append("kind")
        mutated.headers += [(b"content-type", kind), (b"content-length", str(len(encoded)).encode())]
        mutated.body = encoded

    def _encode_webhook(self, mutated: MutatedRequest) -> None:
        """Report on a payment as Stripe would, with things wrong inside, and mostly signed as Stripe signs."""
        dice = self.dice
        event = copy.deepcopy(WEBHOOK)
        event["id"] = f"evt_{dice.randrange(2000)}"
        intent = event["data"]["object"]
        if self.known.payments:
            payment, intent["id"], order = dice.choice(self.known.payments)
            intent["metadata"] |= {"payment_id": payment, "order_id": order}
        parts: tuple[dict[str, Any], ...] = (event, event, intent, intent, intent["metadata"])
        for _ in range(dice.choice((0, 1, 1, 2))):
            part = dice.choice(parts)
            part[dice.choice([*part, self.text()])] = self._value()
            mutated.wrong.append("webhook")
        encoded = octets(json.dumps(event, ensure_ascii=dice.random() < 0.5))
        encoded = self._in_octets(mutated, encoded)
        at = int(clock.now().timestamp()) - dice.choice((0, 0, 0, 0, 10_000))
        signature = stripe_signature(encoded, self.known.webhook_secret, at)
        if dice.random() < 0.1:
            signature = signature[: dice.randrange(len(signature))] + self.text()
        mutated.headers += [
            (b"stripe-signature", octets(signature).translate(None, _NOT_IN_HEADERS)),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(encoded)).encode()),
        ]
        mutated.body = encoded

    def _in_octets(self, mutated: MutatedRequest, encoded: bytes) -> bytes:
        dice = self.dice
        if dice.random() < 0.15:
            at = dice.randrange(len(encoded) + 1)
            encoded = encoded[:at] + dice.choice(PIECES) + encoded[at + dice.randrange(3) :]
            mutated.wrong.append("octets")
        if dice.random() < 0.02:
            encoded += b" " * 70_000
            mutated.wrong.append("size")
        return encoded
