"""What the tests of orders share: a database of their own, tickets to reserve, and events to hear."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from admitone.events import TicketCreated, TicketUpdated
from admitone.kernel.clock import now
from admitone.kernel.database.pool import Database
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import Event, unwrap, wrap
from admitone.kernel.messaging.inbox import Inbox, MissingEvents
from admitone.orders.service import SERVICE
from admitone.orders.store import Reservation, Reserved, reserve_tickets
from tests import engines

WINDOW_SECONDS = 900


@asynccontextmanager
async def orders_database(databases: engines.Databases) -> AsyncIterator[Database]:
    fresh = await databases.fresh("orders")
    database = await Database.connect(fresh.url, application="orders")
    try:
        yield database
    finally:
        await database.close()


def listed(*, seller: UUID | None = None, price_cents: int = 1999) -> TicketCreated:
    return TicketCreated(
        id=new_id(),
        version=0,
        title="Nina Simone, row 4",
        price_cents=price_cents,
        currency="usd",
        user_id=seller or new_id(),
    )


def changed(ticket: TicketCreated | TicketUpdated, **changes: object) -> TicketUpdated:
    """The ticket's next version, with what changed."""
    fields = {name: getattr(ticket, name) for name in ticket.__struct_fields__}
    return TicketUpdated(**{**fields, "version": ticket.version + 1, **changes})


async def hear(database: Database, *events: Event) -> list[MissingEvents]:
    """Take events in, in order, as if they came from the bus together."""
    inbox = Inbox("orders", database, Bus("orders"), SERVICE.subscriptions)
    async with database.transaction() as tx:
        missing = await inbox.consume(tx, [unwrap(on_the_bus(event)) for event in events])
    return list(missing.values())


def on_the_bus(event: Event) -> bytes:
    return wrap(new_id(), event.producer, type(event).__name__, event.aggregate, now(), event.encode(), None)


async def told(database: Database) -> list[Event]:
    """What the service has told so far, in order."""
    rows = await database.fetch("SELECT * FROM outbox ORDER BY position")
    return [
        unwrap(wrap(row["id"], "orders", row["type"], row["aggregate"], row["recorded_at"], row["data"], None))[1]
        for row in rows
    ]


async def reserve(
    database: Database, ticket_id: UUID, buyer: UUID, *, window_seconds: int = WINDOW_SECONDS
) -> Reserved:
    [reserved] = await reserve_tickets(database, [Reservation(ticket_id, buyer, None)], window_seconds, 201)
    return reserved
