"""A ticket: what is offered, who may edit it, when it is locked for an order, and how it is found."""

import re
import unicodedata
from collections.abc import Container, Iterator
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

import msgspec
from msgspec.structs import asdict, replace

from admitone.events import Offer, OrderedTicket, TicketCreated, TicketStatus, TicketUpdated
from admitone.kernel.errors import Forbidden, Invalid, NotFound, PreconditionFailed

# PostgreSQL's limit is 2046 bytes for a word; nobody types the hundredth letter of one to find a ticket.
_WORD_MAX: Final = 100
_WORD: Final = re.compile(r"[^\W_]+")
# Letters whose strokes and ligatures Unicode does not decompose, and what people type who do not have them.
_PLAIN_LETTERS: Final = str.maketrans({
    "ł": "l", "ø": "o", "đ": "d", "ð": "d", "ħ": "h", "ŧ": "t", "ƀ": "b", "ı": "i", "ŋ": "n",
    "æ": "ae", "œ": "oe", "þ": "th",
})  # fmt: skip
# Chinese characters and Japanese syllables: runs of them have no spaces between words.
_CJK: Final = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_CJK_OR_OTHER: Final = re.compile(f"([{_CJK}]+)|([^{_CJK}]+)")
# A run is found by what begins at any of its characters, up to this many; a longer search is for several such pieces.
_PIECE_MAX: Final = 10


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


class Ticket(msgspec.Struct, frozen=True):
    """A ticket and its lock.

    `available` can be edited or locked; `reserved` is locked for an order, as it was ordered; `sold` is final. Every
    change is a new version, every edit a new revision.
    """

    id: UUID
    version: int
    seller_id: UUID
    offer: Offer
    status: TicketStatus = "available"
    order_id: UUID | None = None
    revision: int = 0

    @classmethod
    def of(cls, event: TicketCreated | TicketUpdated) -> "Ticket":
        """Return the ticket that an event of this service describes."""
        offer = Offer.of(event)
        return cls(event.id, event.version, event.user_id, offer, event.status, event.order_id, event.revision)

    def edited(self, user_id: UUID, offer: Offer, expected_versions: Container[int]) -> "Ticket":
        """Return the ticket with another offer; an equal one is an edit, too.

        Raises NotYourTicket, TicketReserved or TicketSold, and TicketChanged for any but the expected versions.
        """
        if user_id != self.seller_id:
            raise NotYourTicket
        if self.status == "reserved":
            raise TicketReserved
        if self.status == "sold":
            raise TicketSold
        # Last, because a precondition counts only if the request would succeed without it (RFC 9110, §13.2.1).
        if self.version not in expected_versions:
            raise TicketChanged
        return replace(self, version=self.version + 1, revision=self.revision + 1, offer=offer)

    def is_as_ordered(self, ordered: OrderedTicket) -> bool:
        """Whether an order of `ordered` may lock this: it is free, and not edited since the order was made.

        The version does not tell: it also changes when another order locks and releases the ticket.
        """
        return self.status == "available" and (self.revision, self.offer.price_cents, self.offer.currency) == (
            ordered.revision,
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

    def created_event(self) -> TicketCreated:
        assert self.version == 0
        return TicketCreated(**self._event_fields())

    def updated_event(self) -> TicketUpdated:
        return TicketUpdated(**self._event_fields())

    def snapshot_event(self) -> TicketUpdated:
        return TicketUpdated(**self._event_fields(), snapshot=True)

    def _event_fields(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "version": self.version,
            "user_id": self.seller_id,
            "status": self.status,
            "order_id": self.order_id,
            "revision": self.revision,
            **asdict(self.offer),
        }


def words_of(text: str) -> list[str]:
    """Return the words to search for a text, each once: no case, no accents, nothing but letters and digits."""
    found = set()
    for run, word in _runs_and_words(text):
        found |= {run[at : at + _PIECE_MAX] for at in range(0, len(run), _PIECE_MAX)} if run else {word}
    return sorted(found)


def searchable_words(offer: Offer) -> list[str]:
    """Return the words by whose beginnings a search finds a ticket; `0005_words.sql` makes them of older ones."""
    found = set()
    for run, word in _runs_and_words(f"{offer.title} {offer.venue or ''}"):
        found |= {run[at : at + _PIECE_MAX] for at in range(len(run))} if run else {word}
    return sorted(found)


def _runs_and_words(text: str) -> Iterator[tuple[str, str]]:
    """Yield each run of Chinese or Japanese and each word of other scripts, as (run, "") or ("", word)."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(each))
    for together in _WORD.findall(plain.translate(_PLAIN_LETTERS)):
        for run, word in _CJK_OR_OTHER.findall(together):
            yield run, word[:_WORD_MAX]


Sort = Literal["newest", "price", "-price", "date"]


class Position(NamedTuple):
    """A position in a sorted list: the value of the sort key, as a whole number, and the ticket's id."""

    key: int
    ticket_id: UUID
