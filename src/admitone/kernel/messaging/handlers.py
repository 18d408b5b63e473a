"""The handlers of events that a service declares in its subscriptions."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

from admitone.kernel.database.pool import Transaction
from admitone.kernel.messaging.event import Event

E = TypeVar("E", bound=Event)
S = TypeVar("S")


class MissingEvents(Exception):
    """An earlier event about this aggregate has not arrived.

    A handler raises it before it changes anything. The event stays on the bus and is delivered again; the producer is
    asked to publish the aggregate's events above `have_version` (-1: all of them) again.
    """

    def __init__(self, producer: str, aggregate: UUID, have_version: int = -1) -> None:
        super().__init__(f"{producer} {aggregate} above version {have_version}")
        self.producer = producer
        self.aggregate = aggregate
        self.have_version = have_version


Handler = Callable[[Transaction, E], Awaitable[None]]


@dataclass(frozen=True)
class BatchHandler(Generic[E, S]):
    """Handles many events of one type with few statements; no two of a batch are about the same aggregate.

    `load` reads and locks what the events are about; `handle` decides about one event, changes that state and
    publishes; `save` writes what changed. `handle` raises MissingEvents before it changes anything.
    """

    load: Callable[[Transaction, Sequence[E]], Awaitable[S]]
    handle: Callable[[Transaction, S, E], None]
    save: Callable[[Transaction, S], Awaitable[None]]


AnyHandler = Handler[Any] | BatchHandler[Any, Any]
