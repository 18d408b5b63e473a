"""Events for the tests of a service: delivered as if by the bus, and read back from its outbox."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from admitone.kernel import clock
from admitone.kernel.database.pool import Database
from admitone.kernel.ids import new_id
from admitone.kernel.messaging import dead_letters
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import Event, unwrap, wrap
from admitone.kernel.messaging.handlers import MissingEvents
from admitone.kernel.messaging.inbox import Inbox
from admitone.kernel.service import Service
from tests import engines


@asynccontextmanager
async def service_database(databases: engines.Databases, service: Service) -> AsyncIterator[Database]:
    """A fresh database of a service, with nothing running on it."""
    fresh = await databases.fresh(service.name)
    database = await Database.connect(fresh.url, application=service.name)
    try:
        yield database
    finally:
        await database.close()


def message_of(event: Event) -> bytes:
    """The event as its producer's relay would publish it, with a fresh event id."""
    return wrap(new_id(), event.producer, type(event).__name__, event.aggregate, clock.now(), event.encode(), None)


async def consume(service: Service, database: Database, *events: Event | bytes) -> list[MissingEvents]:
    """Let a service consume events in one batch, in this order; return what must wait for missing events."""
    messages = [event if isinstance(event, bytes) else message_of(event) for event in events]
    inbox = Inbox(service.name, database, Bus(service.name), service.subscriptions)
    async with database.transaction() as tx:
        missing = await inbox.consume(tx, [unwrap(message) for message in messages])
    return list(missing.values())


async def drop(database: Database, event: Event) -> None:
    """Let an operator drop an event that the service could not handle."""
    message = message_of(event)
    event_id = str(unwrap(message)[0].id)
    await database.execute(
        "INSERT INTO dead_letter (id, subject, message, attempts, error, given_up_at) "
        "VALUES ($1, 'events', $2, 5, 'HandlerBroken', now())",
        event_id,
        message,
    )
    [letter] = await dead_letters.find_all(database, event_id)
    assert await dead_letters.drop(database, letter)


async def published(service: Service, database: Database) -> list[Event]:
    """Return what a service has published, in order."""
    rows = await database.fetch("SELECT * FROM outbox ORDER BY position")
    return [
        unwrap(wrap(row["id"], service.name, row["type"], row["aggregate"], row["recorded_at"], row["data"], None))[1]
        for row in rows
    ]


async def rebuild(service: Service, source: Database, database: Database, *, times: int = 1) -> None:
    """Rebuild in a database what a service has published in another one, as a recovery does."""
    rows = await source.fetch("SELECT * FROM outbox ORDER BY position")
    for event, row in zip(await published(service, source), rows, strict=True):
        for _ in range(times):
            if (change := service.rebuilds.get(type(event))) is not None:
                async with database.transaction() as tx:
                    await change(tx, event, row["recorded_at"])
