"""Each parser of untrusted input, as a function of bytes that may only accept or refuse them.

`guided` runs one of them guided by coverage; the tests run all of them on the inputs in `seeds/`. Anything raised but a
refusal is a bug, and so is a text that does not survive being parsed twice.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import msgspec
from starlette.requests import Request

from admitone.auth.model import network_of, read_email
from admitone.auth.tokens import SigningKeys, new_signing_key
from admitone.kernel import clock, ids
from admitone.kernel.errors import Refusal
from admitone.kernel.http import parsing
from admitone.kernel.http.client_address import client_address
from admitone.kernel.http.sessions import Sessions, SignedInUser, TokenVerifier, session_tokens
from admitone.kernel.messaging.event import Undecodable, unwrap
from admitone.kernel.text import clean_line
from admitone.payments.gateway import ForgedWebhook, Gateway
from admitone.payments.stripe_objects import PaymentIntent
from admitone.registry import SERVICES
from admitone.tickets.model import Position, searchable_words, words_of
from admitone.tickets.views import EntityTags, TicketListing, read_cursor, write_cursor
from admitone.web.formatting import money
from admitone.web.forms import NotAnAmount, parse_amount, read_amount, read_form
from admitone.web.page_request import local_url
from admitone.web.selling import ticket_body, ticket_preview
from proof.clients import stripe_signature
from proof.fuzz.inputs import MARK

T = TypeVar("T")

_OPERATIONS: Final = [operation for service in SERVICES for operation in service.operations]
BODIES: Final = {each.body for each in _OPERATIONS if each.body is not None}
QUERIES: Final = {each.query for each in _OPERATIONS if each.query is not None}

_WEBHOOK_SECRET: Final = "whsec_fuzz"
_GATEWAY: Final = Gateway(None, None, False, (_WEBHOOK_SECRET,), None)  # type: ignore[arg-type]  # its client is not used
_KEYS: Final = SigningKeys.from_pem(new_signing_key())
_SCOPE: Final = "newest\nfado"


async def _fetch_keys() -> bytes:
    return msgspec.json.encode(_KEYS.published)


_SESSIONS: Final = Sessions(TokenVerifier(_fetch_keys))


def _result(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never really waits; an event loop for each would take most of the time."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    raise AssertionError("it waits")


def _request(headers: list[tuple[bytes, bytes]], body: bytes = b"") -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": headers, "client": ("127.0.0.1", 1)}, receive)


def _check_messages(refusal: Refusal, octets: bytes) -> None:
    for each in refusal.errors:
        assert each.message.isprintable()
        assert len(each.message) < 120
        assert MARK not in f"{each.message} {each.field}", octets


def body(octets: bytes) -> None:
    """A JSON body, as each of the structs that are parsed from one."""
    for struct in BODIES:
        try:
            parsed = parsing.read_body(octets, struct)
        except Refusal as refusal:
            _check_messages(refusal, octets)
            continue
        msgspec.json.encode(parsed)
        if isinstance(parsed, TicketListing):
            offer = parsed.offer("usd")
            assert 50 <= offer.price_cents <= 99_999_999
            encoded = msgspec.json.Encoder(decimal_format="number").encode(parsed)
            assert parsing.read_body(encoded, TicketListing) == parsed
            assert all(0 < len(word) <= 100 for word in searchable_words(offer))


def query(octets: bytes) -> None:
    """A query string."""
    for struct in QUERIES:
        try:
            parsed = parsing.read_query(octets, struct)
        except Refusal as refusal:
            _check_messages(refusal, octets)
        else:
            assert 1 <= getattr(parsed, "limit", 1) <= 100


def envelope(octets: bytes) -> None:
    """A message from the bus."""
    with suppress(Undecodable):
        _, event = unwrap(octets)
        assert msgspec.json.decode(event.encode(), type=type(event)) == event


def webhook(octets: bytes) -> None:
    """A webhook: its signature header on the first line, and its body."""
    signature, _, content = octets.partition(b"\n")
    with suppress(ForgedWebhook):
        _GATEWAY.parse_webhook(content, signature.decode("latin-1"))
        raise AssertionError("a forged signature was accepted")


def webhook_event(octets: bytes) -> None:
    """The body of a webhook whose signature is right."""
    signature = stripe_signature(octets, _WEBHOOK_SECRET, int(clock.now().timestamp()))
    with suppress(ForgedWebhook):
        event = _GATEWAY.parse_webhook(octets, signature)
        assert "\0" not in octets.decode()
        for kept in (event.id, event.intent_id or ""):
            assert kept.isascii()
            assert "\0" not in kept
        assert event.intent is None or isinstance(event.intent, PaymentIntent)


def token(octets: bytes) -> None:
    """A session cookie and the token in it."""
    headers = _request([(b"cookie", b"session=" + octets)]).headers
    assert all(each.isascii() and each.isprintable() for each in session_tokens(headers, "session")), octets
    assert _result(_SESSIONS.user_of(headers)) is None, "a forged token was accepted"


def cursor(octets: bytes) -> None:
    """A cursor of the listings."""
    text = octets.decode("utf-8", "replace")
    with suppress(Refusal):
        assert write_cursor(_SCOPE, read_cursor(_SCOPE, text)) == text


def text(octets: bytes) -> None:
    """A line of text, a word to search for, an e-mail address, an amount, a place to go, a version."""
    try:
        typed = octets.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        typed = octets.decode("latin-1")
    with suppress(ValueError):
        cleaned = clean_line(typed)
        assert clean_line(cleaned) == cleaned
        cleaned.encode()
        words_of(cleaned)
    with suppress(ValueError):
        email = read_email(typed)
        assert read_email(email) == email
    amount = parse_amount(typed)
    assert amount is None or len(money(amount, "usd")) < 120
    with suppress(NotAnAmount):
        assert len(money(read_amount(typed, "usd"), "usd")) < 20
    place = local_url(typed)
    assert place.isprintable()
    assert place.startswith("/")
    assert not place.startswith(("//", "/\\"))
    assert (5 in EntityTags(typed)) in {True, False}
    network_of(client_address(_request([(b"x-forwarded-for", octets)]).scope, trust_proxy=True))


def form(octets: bytes) -> None:
    """A form post, and the listing it becomes."""
    kind = (b"content-type", b"application/x-www-form-urlencoded")
    with suppress(Refusal):
        fields = _result(read_form(_request([kind], octets)))
        msgspec.json.encode(ticket_body(fields, "usd"))
        ticket_preview(fields, "usd")


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    each.__name__: each for each in (body, query, envelope, webhook, webhook_event, token, cursor, text, form)
}


def _generated(name: str) -> Sequence[bytes]:
    """Return the seeds that cannot be kept in files: tokens with a signature, and cursors."""
    now = clock.now()
    match name:
        case "token":
            user = SignedInUser(ids.new_id(), "eve@example.com", ids.new_id(), now.timestamp() + 3600)
            foreign = SigningKeys.from_pem(new_signing_key()).sign(user, now).encode()
            return foreign, b"a.b.c", b"e30.e30.e30", b'"\\015\\012x: y"', b"." * 2000, b"\xff"
        case "cursor":
            places = ((_SCOPE, 1_780_000_000_000_000), ("price", 1))
            cursors = [write_cursor(scope, Position(key, ids.new_id())).encode() for scope, key in places]
            return *cursors, b"=", b"\xff"
        case _:
            return ()


def seeds_of(name: str) -> list[bytes]:
    """Return the inputs a parser starts with: good ones, and those that once broke something."""
    files = sorted((Path(__file__).parent / "seeds" / name).glob("*"))
    return [*(file.read_bytes() for file in files), *_generated(name)]
