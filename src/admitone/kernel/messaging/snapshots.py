"""Snapshots: the present state of a service's aggregates, published again for consumers that lack their history."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from admitone.kernel.database.pool import Database, Statements, Transaction
from admitone.kernel.messaging.event import Event

# Few enough that no transaction holds locks for long.
_PAGE: Final = 200
_FIRST_ID: Final = UUID(int=0)


@dataclass(frozen=True)
class Snapshots:
    """How a service describes the aggregates of one kind.

    `ids_after` returns up to so many ids of aggregates after one, in their order. `events` locks some aggregates and
    returns what describes them: events that lead a consumer from nothing, or from any earlier state, to the present
    one, and that change nothing for a consumer that has it. Aggregates it does not know are left out.
    """

    ids_after: Callable[[Statements, UUID, int], Awaitable[Sequence[UUID]]]
    events: Callable[[Transaction, Sequence[UUID]], Awaitable[Sequence[Event]]]


async def publish_snapshot(database: Database, kinds: Sequence[Snapshots], aggregate: UUID) -> int:
    """Publish the present state of one aggregate; return how many events that takes, 0 if it is unknown."""
    async with database.transaction() as tx:
        return await _publish(tx, kinds, [aggregate])


async def publish_snapshots(database: Database, kinds: Sequence[Snapshots]) -> int:
    """Publish the present state of every aggregate, page by page; return the number of events."""
    count = 0
    for kind in kinds:
        after = _FIRST_ID
        while page := await kind.ids_after(database, after, _PAGE):
            async with database.transaction() as tx:
                count += await _publish(tx, [kind], page)
            after = page[-1]
    return count


async def _publish(tx: Transaction, kinds: Sequence[Snapshots], aggregates: Sequence[UUID]) -> int:
    events = [event for kind in kinds for event in await kind.events(tx, aggregates)]
    for event in events:
        tx.publish(event, is_snapshot=True)
    return len(events)
