"""Events and their representation on the bus (CloudEvents 1.0, structured JSON)."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Final, dataclass_transform
from uuid import UUID

import msgspec

_REGISTRY: dict[str, type["Event"]] = {}

JSON: Final = msgspec.json.Encoder()


# For type checkers: subclasses are frozen, too.
@dataclass_transform(frozen_default=True, kw_only_default=True)
class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A fact that a service publishes; fields are only ever added, with defaults.

    A subclass names its producer and the field that identifies its aggregate. If the aggregate is versioned, the
    field `version` is its version after this change. An event whose field `snapshot` is true is not a change: it
    describes the aggregate as it is in this version.
    """

    producer: ClassVar[str]
    aggregate_field: ClassVar[str] = "id"
    schema_version: ClassVar[int] = 1

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        assert cls.__name__ not in _REGISTRY or _REGISTRY[cls.__name__].__module__ == cls.__module__
        _REGISTRY[cls.__name__] = cls

    @property
    def aggregate(self) -> UUID:
        """The id of the aggregate: CloudEvents' `subject`."""
        found = getattr(self, self.aggregate_field)
        assert isinstance(found, UUID)
        return found

    @property
    def aggregate_version(self) -> int | None:
        """The aggregate's version after this change; None if it is not versioned."""
        return getattr(self, "version", None)

    @property
    def is_snapshot(self) -> bool:
        return getattr(self, "snapshot", False)

    def encode(self) -> str:
        """Return the event's fields as JSON, as the outbox stores them."""
        return JSON.encode(self).decode()


def event_types() -> Mapping[str, type[Event]]:
    """Return every event type by its name."""
    return _REGISTRY


def subject_of(event_type: type[Event]) -> str:
    """Return the bus subject of this type of event."""
    return f"events.{event_type.producer}.{event_type.__name__}"


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvents 1.0 envelope around an event's data.

    Source: CloudEvents specification 1.0.2, §3.1 (attributes), JSON format §3; distributed tracing extension.
    """

    id: UUID
    source: str
    type: str
    subject: UUID
    time: datetime
    dataschema: str
    data: msgspec.Raw
    specversion: str = "1.0"
    datacontenttype: str = "application/json"
    traceparent: str | msgspec.UnsetType = msgspec.UNSET


class Undecodable(Exception):
    """The message is not an event"""


class UnknownEvent(Undecodable):
    """This version does not know the event's type, or cannot read its data; another version may"""

    def __init__(self, event_id: UUID, reason: str) -> None:
        super().__init__(reason)
        self.event_id = event_id


_ENVELOPE: Final = msgspec.json.Decoder(Envelope)
_MALFORMED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def wrap(
    event_id: UUID, producer: str, name: str, subject: UUID, time: datetime, data: str, traceparent: str | None
) -> bytes:
    """Return the message for `data`, the JSON of `Event.encode`."""
    schema = event_types()[name].schema_version
    return JSON.encode(
        Envelope(
            id=event_id,
            source=f"/admitone/{producer}",
            type=name,
            subject=subject,
            time=time,
            dataschema=f"/events/{name}/{schema}",
            data=msgspec.Raw(data.encode()),
            traceparent=traceparent or msgspec.UNSET,
        )
    )


def read_envelope(message: bytes) -> Envelope:
    """Parse the envelope of a message, whatever its data is; raises Undecodable."""
    try:
        return _ENVELOPE.decode(message)
    except _MALFORMED as error:
        raise Undecodable(str(error)) from None


def unwrap(message: bytes) -> tuple[Envelope, Event]:
    """Parse a message from the bus; raises Undecodable or UnknownEvent with the reason."""
    envelope = read_envelope(message)
    event_type = event_types().get(envelope.type)
    if event_type is None:
        raise UnknownEvent(envelope.id, "unknown type of event")
    try:
        return envelope, msgspec.json.decode(envelope.data, type=event_type)
    except _MALFORMED as error:
        raise UnknownEvent(envelope.id, str(error)) from None
