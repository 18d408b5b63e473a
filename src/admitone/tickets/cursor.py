"""Where a page of tickets ended, as an opaque word that the next request brings back.

A cursor belongs to one list: its scope is the sort and the words searched for, or the seller whose tickets are listed.
It holds a ticket's place in that list and a digest of both, so that a cursor of another list, or a damaged one, is
refused. It is not signed: it says nothing that the page did not show, and a forged one only begins elsewhere.
"""

import hashlib
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from admitone.tickets.model import BadCursor

_PLACE: Final = struct.Struct(">q16s")
_DIGEST_BYTES: Final = 8
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Place(NamedTuple):
    """A place in a list: what the list is sorted by, in whole numbers, and the ticket's id."""

    key: int
    ticket_id: UUID


def pack(scope: str, place: Place) -> str:
    packed = _PLACE.pack(place.key, place.ticket_id.bytes)
    digest = hashlib.sha256(scope.encode() + b"\n" + packed).digest()[:_DIGEST_BYTES]
    return urlsafe_b64encode(packed + digest).decode().rstrip("=")


def unpack(scope: str, cursor: str) -> Place:
    """Return the place; raises BadCursor for what `pack` does not return for this scope."""
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        key, ticket_id = _PLACE.unpack(raw[: _PLACE.size])
    except (ValueError, struct.error):
        raise BadCursor from None
    place = Place(key, UUID(bytes=ticket_id))
    if pack(scope, place) != cursor:
        raise BadCursor
    return place


def key_of(moment: datetime) -> int:
    """Return a time as a key: microseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment_of(key: int) -> datetime:
    """Return the time of a key; raises BadCursor when it is no time, which only a forged cursor can say."""
    try:
        return _EPOCH + timedelta(microseconds=key)
    except OverflowError:
        raise BadCursor from None
