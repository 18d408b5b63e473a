"""A ticket and what may become of it: what a seller may say about it, who may change it, and when it is locked."""

import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec.structs import replace

from admitone.events import OrderedTicket, TicketCreated, TicketStatus, TicketUpdated
from admitone.kernel.errors import Forbidden, Invalid, NotFound, PreconditionFailed
from admitone.kernel.http import parsing
from admitone.kernel.http.parsing import Rule
from admitone.kernel.money import cents_of, decimal_of
from admitone.policy import LARGEST_CENTS, SMALLEST_CENTS

TITLE_MAX: Final = 200
VENUE_MAX: Final = 200
PLACE_MAX: Final = 40
NOTE_MAX: Final = 500
QUESTION_MAX: Final = 200
CURSOR_MAX: Final = 100
_YEARS: Final = range(2000, 2200)

# PostgreSQL takes no word longer than 2046 bytes; nobody types the hundredth letter of one to find a ticket.
_WORD_MAX: Final = 100
_WORD: Final = re.compile(r"[^\W_]+")


class NoSuchTicket(NotFound):
    """Not Found"""


class NotYourTicket(Forbidden):
    """Only its seller can edit a ticket"""


class TicketReserved(Invalid):
    """Cannot edit a reserved ticket"""


class TicketSold(Invalid):
    """Cannot edit a sold ticket"""


class TicketChanged(PreconditionFailed):
    """The ticket changed since you read it; read it again"""


class BadCursor(Invalid):
    """Cursor is not valid for this list"""

    field = "cursor"


_Moment = Annotated[datetime, msgspec.Meta(tz=True)]

# How each thing a seller says is read.


def _price(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("Price must be a number")  # noqa: TRY004 – a broken rule, reported to the caller like any other
    amount = Decimal(value)
    if amount <= 0:
        raise ValueError
    if amount > decimal_of(LARGEST_CENTS):
        raise ValueError(f"Price must be {decimal_of(LARGEST_CENTS)} or less")
    try:
        cents = cents_of(amount)
    except ValueError:
        raise ValueError("Price must have at most two decimals") from None
    if cents < SMALLEST_CENTS:
        raise ValueError(
            f"Price must be at least {decimal_of(SMALLEST_CENTS)}: our payment provider takes nothing smaller"
        )
    return decimal_of(cents)


def _optional_line(length_max: int) -> Callable[[Any], str | None]:
    """Return a reader of a line that may be absent; a blank one is as good as absent."""
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
_Note = Annotated[str, msgspec.Meta(max_length=NOTE_MAX)]


class TicketListing(msgspec.Struct, frozen=True, rename="camel"):
    """What a seller says about a ticket. An edit says all of it again: what it leaves out is gone."""

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

    @property
    def price_cents(self) -> int:
        return cents_of(self.price)

    @property
    def words(self) -> list[str]:
        """The words by which this ticket is found."""
        return words_of(f"{self.title} {self.venue or ''}")


def words_of(text: str) -> list[str]:
    """Return a text's words for searching, each once: no case, no accents, nothing but letters and digits."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(each))
    return sorted({word[:_WORD_MAX] for word in _WORD.findall(plain)})


class ShownTicket(msgspec.Struct, rename="camel", omit_defaults=True):
    """A ticket as anybody may see it; `orderId` only while it is reserved or sold.

    The database writes this JSON (`shown_ticket` in the migrations); the type describes it and guards it in the tests.
    """

    id: UUID
    title: str
    price: Decimal
    currency: str
    user_id: UUID
    version: int
    status: TicketStatus
    created_at: _Moment
    order_id: UUID | None = None
    event_date: _Moment | None = None
    venue: str | None = None
    section: str | None = None
    row: str | None = None
    seat: str | None = None
    note: str | None = None


class ShownTickets(msgspec.Struct):
    """A page of tickets; `cursor` leads to the next page and is null on the last."""

    tickets: list[ShownTicket]
    cursor: str | None


# What people ask the shelf for.

Sort = Literal["newest", "price", "-price", "date"]

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
        msgspec.Meta(max_length=QUESTION_MAX, description="Words of title or venue; the beginning of each will do."),
        Rule(f"Q must be text of at most {QUESTION_MAX} characters", parsing.line(QUESTION_MAX)),
    ] = ""
    sort: Annotated[
        Sort,
        msgspec.Meta(description="`date` puts tickets without one last."),
        Rule("Sort must be newest, price, -price or date", parsing.one_of("newest", "price", "-price", "date")),
    ] = "newest"


class OwnTicketsPage(msgspec.Struct):
    """Which of one's own tickets to list."""

    limit: _Limit = 50
    cursor: _Cursor = None


class Ticket(msgspec.Struct, frozen=True):
    """What is offered, and who holds it.

    `available` may be edited or locked; `reserved` is locked for an order, at the price of that order; `sold` is final.
    Every method returns the ticket one version on, or refuses.
    """

    id: UUID
    version: int
    user_id: UUID
    title: str
    price_cents: int
    currency: str
    status: TicketStatus
    order_id: UUID | None

    @classmethod
    def listed(cls, ticket_id: UUID, seller: UUID, listing: TicketListing, currency: str) -> "Ticket":
        return cls(
            id=ticket_id,
            version=0,
            user_id=seller,
            title=listing.title,
            price_cents=listing.price_cents,
            currency=currency,
            status="available",
            order_id=None,
        )

    def edited(self, person: UUID, listing: TicketListing, expected: "Versions") -> "Ticket":
        """Offer something else instead. Saying the same again is an edit too, with a version of its own.

        Raises NotYourTicket, TicketReserved, TicketSold, or TicketChanged when `expected` names other versions.
        """
        if person != self.user_id:
            raise NotYourTicket
        if self.status == "reserved":
            raise TicketReserved
        if self.status == "sold":
            raise TicketSold
        # Last, because a precondition only counts where the request would succeed without it (RFC 9110, §13.2.1).
        if self.version not in expected:
            raise TicketChanged
        return replace(self, version=self.version + 1, title=listing.title, price_cents=listing.price_cents)

    def is_as_ordered(self, ordered: OrderedTicket) -> bool:
        """Whether an order of `ordered` may lock this: it is free, and the buyer saw the price it has."""
        return self.status == "available" and (self.price_cents, self.currency) == (
            ordered.price_cents,
            ordered.currency,
        )

    def is_reserved_for(self, order_id: UUID) -> bool:
        return self.status == "reserved" and self.order_id == order_id

    def is_reserved_for_another(self, order_id: UUID) -> bool:
        return self.status == "reserved" and self.order_id != order_id

    def locked(self, order_id: UUID) -> "Ticket":
        assert self.status == "available"
        return replace(self, version=self.version + 1, status="reserved", order_id=order_id)

    def released(self) -> "Ticket":
        assert self.status == "reserved"
        return replace(self, version=self.version + 1, status="available", order_id=None)

    def sold(self) -> "Ticket":
        assert self.status == "reserved"
        return replace(self, version=self.version + 1, status="sold")

    def listed_fact(self) -> TicketCreated:
        return TicketCreated(
            id=self.id,
            version=self.version,
            title=self.title,
            price_cents=self.price_cents,
            currency=self.currency,
            user_id=self.user_id,
        )

    def changed_fact(self) -> TicketUpdated:
        return TicketUpdated(
            id=self.id,
            version=self.version,
            title=self.title,
            price_cents=self.price_cents,
            currency=self.currency,
            user_id=self.user_id,
            status=self.status,
            order_id=self.order_id,
        )


class Versions:
    """The versions that a request's `If-Match` or `If-None-Match` names. Source: RFC 9110, §8.8.3 and §13.1."""

    def __init__(self, header: str) -> None:
        # A proxy that compresses an answer marks its tag as weak; the version it names is no less exact for that.
        self._tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}

    def __contains__(self, version: object) -> bool:
        return "*" in self._tags or f'"{version}"' in self._tags


ANY_VERSION: Final = Versions("*")
