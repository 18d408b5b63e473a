"""Each parser of what comes from outside, as a function of bytes that may only succeed or refuse.

`fuzz.guided` runs one of them guided by coverage; the tests run all of them on inputs that are kept. Anything raised
but a refusal is a bug, and so is a text that does not survive being read twice.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request

import admitone.events  # noqa: F401 - registers every event type
from admitone.auth.model import network_of, read_email
from admitone.auth.tokens import SigningKeys, new_signing_key
from admitone.auth.views import AccountChange, SignIn, SignUp
from admitone.kernel import clock, ids
from admitone.kernel.errors import Refusal
from admitone.kernel.http import parsing
from admitone.kernel.http.app import session_token
from admitone.kernel.http.client_address import client_address
from admitone.kernel.http.sessions import Sessions, SignedInUser, TokenVerifier
from admitone.kernel.messaging.event import Undecodable, unwrap
from admitone.kernel.text import clean_line
from admitone.orders.views import NewOrder, OrdersQuery
from admitone.payments.gateway import ForgedWebhook, Gateway, PaymentIntent
from admitone.payments.views import NewPayment, PaymentsOf
from admitone.tickets.model import Position, searchable_words, words_of
from admitone.tickets.views import TicketListing, TicketSearch, Versions, read_cursor, write_cursor
from admitone.web.formatting import money
from admitone.web.forms import parse_amount, read_form
from admitone.web.page_request import local_url
from admitone.web.selling import ticket_body, ticket_preview
from proof.webhooks import stripe_signature

T = TypeVar("T")

BODIES: Final[tuple[type[msgspec.Struct], ...]] = (TicketListing, SignUp, SignIn, AccountChange, NewOrder, NewPayment)
QUERIES: Final[tuple[type[msgspec.Struct], ...]] = (TicketSearch, OrdersQuery, PaymentsOf)

_SIGNS_WEBHOOKS: Final = "whsec_fuzz"
_GATEWAY: Final = Gateway(None, None, False, (_SIGNS_WEBHOOKS,))  # type: ignore[arg-type]  # its client is not asked
_KEYS: Final = SigningKeys.from_pem(new_signing_key())
_SCOPE: Final = "newest\nfado"


def _split(octets: bytes) -> tuple[bytes, bytes]:
    first, _, rest = octets.partition(b"\n")
    return first, rest


def _finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never really waits; an event loop for each would take most of the time."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    raise AssertionError("it waits")


def _text(octets: bytes) -> str:
    try:
        return octets.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return octets.decode("latin-1")


def _request(headers: list[tuple[bytes, bytes]], body: bytes = b"") -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": headers, "client": ("127.0.0.1", 1)}, receive)


def body(octets: bytes) -> None:
    """A JSON body, as each of the structs that are read from one."""
    for struct in BODIES:
        try:
            read = parsing.read_body(octets, struct)
        except Refusal as refused:
            _demand_own_words(refused, octets)
            continue
        msgspec.json.encode(read)
        if isinstance(read, TicketListing):
            offer = read.offer("usd")
            assert 50 <= offer.price_cents <= 99_999_999
            assert parsing.read_body(msgspec.json.Encoder(decimal_format="number").encode(read), TicketListing) == read
            assert all(0 < len(word) <= 100 for word in searchable_words(offer, read.details()))


def query(octets: bytes) -> None:
    """A query string."""
    try:
        pairs = parse_qsl(octets.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError:
        return
    for struct in QUERIES:
        try:
            read = parsing.read_query(pairs, struct)
        except Refusal as refused:
            _demand_own_words(refused, octets)
            continue
        assert 1 <= getattr(read, "limit", 1) <= 100


def _demand_own_words(refused: Refusal, octets: bytes) -> None:
    for each in refused.errors:
        assert each.message.isprintable()
        assert len(each.message) < 120
        assert "zq7mark" not in f"{each.message} {each.field}", octets


def envelope(octets: bytes) -> None:
    """A message from the bus."""
    try:
        _, event = unwrap(octets)
    except Undecodable:
        return
    assert msgspec.json.decode(event.encode(), type=type(event)) == event


def webhook(octets: bytes) -> None:
    """A webhook's signature header and body."""
    signature, body = _split(octets)
    try:
        _GATEWAY.parse_webhook(body, signature.decode("latin-1"))
    except ForgedWebhook:
        return
    raise AssertionError("a forged signature was accepted")


async def _keys() -> bytes:
    return msgspec.json.encode(_KEYS.published)


_SESSIONS: Final = Sessions(TokenVerifier(_keys))


def token(octets: bytes) -> None:
    """A session cookie and the token in it."""
    found = session_token(_request([(b"cookie", b"session=" + octets)]))
    user = _finished(_SESSIONS.user(found)) if found else None
    assert user is None, "a forged token was accepted"


def signed_webhook(octets: bytes) -> None:
    """A webhook's body whose signature is right."""
    signature = stripe_signature(octets, _SIGNS_WEBHOOKS, int(clock.now().timestamp()))
    try:
        parsed = _GATEWAY.parse_webhook(octets, signature)
    except ForgedWebhook:
        return
    assert "\0" not in octets.decode()
    for kept in (parsed.id, parsed.intent_id or ""):
        assert kept.isascii()
        assert "\0" not in kept
    assert parsed.intent is None or isinstance(parsed.intent, PaymentIntent)


def cursor(octets: bytes) -> None:
    """A cursor of the listings."""
    text = octets.decode("utf-8", "replace")
    try:
        position = read_cursor(_SCOPE, text)
    except Refusal:
        return
    assert write_cursor(_SCOPE, position) == text


def text(octets: bytes) -> None:
    """A line of text, a word to search for, an e-mail address, an amount, a place to go, a version."""
    typed = _text(octets)
    try:
        cleaned = clean_line(typed)
        assert clean_line(cleaned) == cleaned
        cleaned.encode()
        words_of(cleaned)
    except ValueError:
        pass
    try:
        email = read_email(typed)
        assert read_email(email) == email
    except ValueError:
        pass
    amount = parse_amount(typed)
    assert amount is None or len(money(amount, "usd")) < 120
    place = local_url(typed)
    assert place.isprintable()
    assert place.startswith("/")
    assert not place.startswith(("//", "/\\"))
    assert (5 in Versions(typed)) in {True, False}
    network_of(client_address(_request([(b"x-forwarded-for", octets)]).scope, trust_proxy=True))


def form(octets: bytes) -> None:
    """A form post, and the listing that it becomes."""
    kind = (b"content-type", b"application/x-www-form-urlencoded")
    try:
        fields = _finished(read_form(_request([kind], octets)))
    except Refusal:
        return
    msgspec.json.encode(ticket_body(fields))
    ticket_preview(fields, "usd")


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    each.__name__: each for each in (body, query, envelope, webhook, signed_webhook, token, cursor, text, form)
}

_LISTING: Final = (
    b'{"title":"Fado night","price":19.99,"eventDate":"2027-05-01T19:30:00+02:00","venue":"Clube","section":"A",'
    b'"row":"3","seat":"12","note":"by the door"}'
)
_ID: Final = b"01980a7e-5a4c-7c31-9f0e-3b1d2c4f5a66"
_EVENT: Final = (
    b'{"id":"%(id)s","source":"/admitone/tickets","type":"TicketCreated","subject":"%(id)s","time":"2026-06-01T12:00:00Z",'
    b'"dataschema":"/events/TicketCreated/1","data":{"id":"%(id)s","version":0,"title":"Fado","priceCents":1999,'
    b'"currency":"usd","userId":"%(id)s"},"specversion":"1.0","datacontenttype":"application/json"}' % {b"id": _ID}
)
_BODY: Final = (
    b'{"id":"evt_1","type":"payment_intent.succeeded","livemode":false,"data":{"object":{"id":"pi_1","object":'
    b'"payment_intent","payment_intent":"pi_1"}}}'
)


def _signed_by_somebody_else() -> bytes:
    now = clock.now()
    person = SignedInUser(ids.new_id(), "eve@example.com", ids.new_id(), now.timestamp() + 3600)
    return SigningKeys.from_pem(new_signing_key()).sign(person, now).encode()


# What each parser is begun with: good inputs, and those that once broke something.
SEEDS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "body": (
        _LISTING, b'{"email":"alice@example.com","password":"correct horse"}', b'{"ticketId":"%b"}' % _ID,
        b'{"currentPassword":"correct horse","email":null,"password":"another horse"}',
        b'{"orderId":"%b","token":"tok_visa"}' % _ID, b'{"title":"x","price":1e309}', b'{"title":"\\ud800","price":1}',
        b"[" * 3000, b'{"a":' * 30 + b"1" + b"}" * 30, b'{"price":1,"price":2}', b'{"title":"x","price":9e-99}',
    ),
    "query": (
        b"limit=20&q=fado&sort=-price&cursor=abc", b"limit=0", b"orderId=" + _ID, b"q=%ff", b"q=1&q=2", b"limit=%D9%A3",
    ),
    "envelope": (_EVENT, b"{}", _EVENT.replace(b"1999", b"1e400"), _EVENT.replace(b"2026-06", b"0000-00")),
    "webhook": (b"t=1780000000,v1=" + b"0" * 64 + b"\n" + _BODY, b"t=,v1=\n{}", b"\n", b"t=1,t=2,v1=a,v0=b\n" + _BODY),
    "signed_webhook": (
        _BODY, b"{}", b'{"id":"","type":"","livemode":true,"data":{"object":1}}', _BODY.replace(b"evt_1", b"\\u0000"),
        _BODY.replace(b"pi_1", b"\\u0000"), _BODY.replace(b'"evt_1"', b'"evt_1","more":' + b"[" * 3000),
        _BODY.replace(b'"pi_1"', b'"pi_1","more":' + b"[" * 900 + b"]" * 900),
    ),
    "token": (_signed_by_somebody_else(), b"a.b.c", b"e30.e30.e30", b'"\\015\\012x: y"', b"." * 2000, b"\xff"),
    "cursor": (
        write_cursor(_SCOPE, Position(1_780_000_000_000_000, ids.new_id())).encode(),
        write_cursor("price", Position(1, ids.new_id())).encode(), b"=", b"\xff",
    ),
    "text": (
        "Fado night – \u202e".encode(), b"alice@example.com", "İ@ı.example".encode(), b"1e999999999", b"19,99",
        b"-0", b"//evil",
        b'W/"5", "6"', b"203.0.113.9, ::ffff:1.2.3.4", b"\xed\xa0\x80", b"a\r\nb", "\ufdfa".encode() * 30,
    ),
    "form": (
        b"title=Fado&price=19%2C99&eventDate=2027-05-01T19%3A30&eventInstant=2027-05-01T17%3A30%3A00Z&venue=Clube&key=a",
        b"eventDate=0001-01-01T00:00", b"eventInstant=0001-01-01T00%3A00%3A00%2B23%3A59&eventDate=x",
        b"price=1e999999999&title=x", b"title=%ff", b"title=%ED%A0%80", b"a=1&a=2",
    ),
}  # fmt: skip
