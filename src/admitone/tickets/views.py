"""What clients of tickets send and receive: listings, searches, pages and their cursors, and versions as ETags."""

import hashlib
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Container, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from admitone.events import Offer, TicketStatus
from admitone.kernel.errors import Invalid
from admitone.kernel.http import parsing
from admitone.kernel.http.parsing import Rule
from admitone.kernel.money import cents_of, decimal_of
from admitone.policy import LARGEST_CENTS, SMALLEST_CENTS
from admitone.tickets.model import Position, Sort, words_of

TITLE_MAX: Final = 200
VENUE_MAX: Final = 200
PLACE_MAX: Final = 40
NOTE_MAX: Final = 500
QUERY_MAX: Final = 200
CURSOR_MAX: Final = 100
_YEARS: Final = range(2000, 2200)

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


# Listings


def _amount(name: str, value: Any, is_too_small: Callable[[Decimal], bool]) -> Decimal:
    """Read an exact amount; if it is too small, the rule's own message is reported."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"{name} must be a number")  # noqa: TRY004 – a broken rule, reported to the caller
    amount = Decimal(value)
    if is_too_small(amount):
        raise ValueError
    if amount > decimal_of(LARGEST_CENTS):
        raise ValueError(f"{name} must be {decimal_of(LARGEST_CENTS)} or less")
    try:
        return decimal_of(cents_of(amount))
    except ValueError:
        raise ValueError(f"{name} must have at most two decimals") from None


def _price(value: Any) -> Decimal:
    amount = _amount("Price", value, lambda amount: amount <= 0)
    if amount < decimal_of(SMALLEST_CENTS):
        raise ValueError(
            f"Price must be at least {decimal_of(SMALLEST_CENTS)}: our payment provider takes nothing smaller"
        )
    return amount


def _face_value(value: Any) -> Decimal | None:
    return None if value is None else _amount("FaceValue", value, lambda amount: amount < 0)


def _optional_line(length_max: int) -> Callable[[Any], str | None]:
    """Return a reader of a line that may be absent; a blank one counts as absent."""
    read_line = parsing.line(length_max)

    def read(value: Any) -> str | None:
        return None if value is None else read_line(value) or None

    return read


def _event_date(value: Any) -> datetime | None:
    """Read an RFC 3339 time with its zone, to the second."""
    if value is None:
        return None
    try:
        moment: datetime = msgspec.convert(value, _Moment)
        utc = moment.astimezone(UTC).replace(microsecond=0)
    except (msgspec.ValidationError, OverflowError):
        raise ValueError from None
    if utc.year not in _YEARS:
        raise ValueError(f"EventDate must be in the years {_YEARS.start} to {_YEARS.stop - 1}")
    return utc


def _text_rule(name: str, length_max: int) -> Rule:
    return Rule(f"{name} must be text of at most {length_max} characters", _optional_line(length_max))


_Venue = Annotated[str, msgspec.Meta(max_length=VENUE_MAX)]
_Place = Annotated[str, msgspec.Meta(max_length=PLACE_MAX)]
_FaceValue = Annotated[Decimal, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": 999999.99})]
_Note = Annotated[str, msgspec.Meta(max_length=NOTE_MAX)]


class TicketListing(msgspec.Struct, frozen=True, rename="camel"):
    """What a seller says about a ticket. An edit replaces all of it: what it leaves out is removed."""

    title: Annotated[
        str,
        msgspec.Meta(min_length=1, max_length=TITLE_MAX),
        Rule("Title is required", parsing.line(TITLE_MAX, length_min=1)),
    ]
    price: Annotated[
        Decimal,
        msgspec.Meta(
            description="From 0.50 to 999999.99, with at most two decimals.",
            extra_json_schema={"minimum": 0.5, "maximum": 999999.99},
        ),
        Rule("Price must be greater than 0", _price),
    ]
    face_value: Annotated[
        _FaceValue | None,
        msgspec.Meta(description="The price printed on the ticket: from 0.00 to 999999.99, at most two decimals."),
        Rule("FaceValue must be 0 or more", _face_value),
    ] = None
    event_date: Annotated[
        _Moment | None,
        msgspec.Meta(description="With its zone, to the second, in the years 2000 to 2199."),
        Rule("EventDate must be a time such as 2027-05-01T19:30:00Z", _event_date),
    ] = None
    venue: Annotated[_Venue | None, _text_rule("Venue", VENUE_MAX)] = None
    section: Annotated[_Place | None, _text_rule("Section", PLACE_MAX)] = None
    row: Annotated[_Place | None, _text_rule("Row", PLACE_MAX)] = None
    seat: Annotated[_Place | None, _text_rule("Seat", PLACE_MAX)] = None
    note: Annotated[_Note | None, _text_rule("Note", NOTE_MAX)] = None

    def offer(self, currency: str) -> Offer:
        """Return what the listing offers, priced in a currency."""
        return Offer(
            title=self.title,
            price_cents=cents_of(self.price),
            currency=currency,
            face_value_cents=None if self.face_value is None else cents_of(self.face_value),
            event_date=self.event_date,
            venue=self.venue,
            section=self.section,
            row=self.row,
            seat=self.seat,
            note=self.note,
        )


class TicketView(msgspec.Struct, rename="camel", omit_defaults=True):
    """A ticket as anybody may see it; `orderId` only while it is reserved or sold.

    The database writes this JSON (`shown_ticket` in the migrations); the tests check it against this type.
    """

    id: UUID
    title: str
    price: Decimal
    currency: str
    user_id: UUID
    version: int
    status: TicketStatus
    created_at: _Moment
    face_value: Decimal | None = None
    order_id: UUID | None = None
    event_date: _Moment | None = None
    venue: str | None = None
    section: str | None = None
    row: str | None = None
    seat: str | None = None
    note: str | None = None


class TicketsView(msgspec.Struct):
    """A page of tickets; `cursor` leads to the next page and is null on the last."""

    tickets: list[TicketView]
    cursor: str | None


# Searches

_Limit = Annotated[
    int,
    msgspec.Meta(ge=1, le=100, description="How many at most."),
    Rule("Limit must be a whole number from 1 to 100", parsing.whole_number(1, 100)),
]
_Cursor = Annotated[
    Annotated[str, msgspec.Meta(min_length=1, max_length=CURSOR_MAX)] | None,
    msgspec.Meta(description="The `cursor` of the page before, with the same `q` and `sort`."),
    Rule("Cursor is not valid", parsing.line(CURSOR_MAX, length_min=1)),
]


class TicketSearch(msgspec.Struct, frozen=True):
    """Which of the tickets on sale to list, and in which order."""

    limit: _Limit = 50
    cursor: _Cursor = None
    q: Annotated[
        str,
        msgspec.Meta(
            max_length=QUERY_MAX,
            description="Words of title or venue; the beginning of each will do. Of Chinese and Japanese, any part.",
        ),
        Rule(f"Q must be text of at most {QUERY_MAX} characters", parsing.line(QUERY_MAX)),
    ] = ""
    sort: Annotated[
        Sort,
        msgspec.Meta(description="`date` puts tickets without one last."),
        Rule("Sort must be newest, price, -price or date", parsing.one_of("newest", "price", "-price", "date")),
    ] = "newest"

    @property
    def words(self) -> list[str] | None:
        """The words to search for; None to list everything."""
        return words_of(self.q) if self.q else None

    @property
    def scope(self) -> str:
        """The scope of this list's cursors."""
        return self.sort if self.words is None else f"{self.sort} {' '.join(self.words)}"

    @property
    def after(self) -> Position | None:
        """The position at which the page starts; raises BadCursor."""
        return None if self.cursor is None else read_cursor(self.scope, self.cursor)


class OwnTicketsQuery(msgspec.Struct):
    """Which page of the seller's own tickets to list."""

    limit: _Limit = 50
    cursor: _Cursor = None

    def after(self, scope: str) -> Position | None:
        """Return the position at which the page starts; raises BadCursor."""
        return None if self.cursor is None else read_cursor(scope, self.cursor)


# Cursors
#
# A cursor belongs to one list: its scope is the sort and the words searched for, or the seller of the tickets. It has a
# ticket's position in that list and a digest of both, so that a damaged cursor or one of another list is refused. It is
# not signed: it reveals nothing that the page did not show, and a forged one only starts elsewhere.


class BadCursor(Invalid):
    """Cursor is not valid for this list"""

    field = "cursor"


_POSITION: Final = struct.Struct(">q16s")
_DIGEST_BYTES: Final = 8


def write_cursor(scope: str, position: Position) -> str:
    packed = _POSITION.pack(position.key, position.ticket_id.bytes)
    digest = hashlib.sha256(scope.encode() + b"\n" + packed).digest()[:_DIGEST_BYTES]
    return urlsafe_b64encode(packed + digest).decode().rstrip("=")


def read_cursor(scope: str, cursor: str) -> Position:
    """Return the position; raises BadCursor for what `write_cursor` does not return for this scope."""
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        key, ticket_id = _POSITION.unpack(raw[: _POSITION.size])
    except (ValueError, struct.error):
        raise BadCursor from None
    position = Position(key, UUID(bytes=ticket_id))
    if write_cursor(scope, position) != cursor:
        raise BadCursor
    return position


def tickets_json(tickets: Sequence[str], scope: str, following: Position | None) -> bytes:
    """Return a TicketsView whose tickets are JSON already; `following` is where the next page starts."""
    cursor = "null" if following is None else f'"{write_cursor(scope, following)}"'
    return f'{{"tickets":[{",".join(tickets)}],"cursor":{cursor}}}'.encode()


# Versions


class EntityTags(Container[int]):
    """The versions that a request's `If-Match` or `If-None-Match` names. Source: RFC 9110, §8.8.3 and §13.1."""

    def __init__(self, header: str) -> None:
        # A proxy that compresses a response marks its tag as weak; the version it names is no less exact.
        self._tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}

    def __contains__(self, version: object) -> bool:
        return "*" in self._tags or f'"{version}"' in self._tags


ANY_VERSION: Final = EntityTags("*")
