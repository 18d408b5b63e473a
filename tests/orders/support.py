"""What the tests of orders share: a database, tickets to reserve, and events."""

from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

from admitone.events import TicketCreated, TicketUpdated
from admitone.kernel.database.pool import Database
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.event import Event
from admitone.kernel.messaging.handlers import MissingEvents
from admitone.orders.service import SERVICE
from admitone.orders.store import Reservation, ReservationResult, reserve_tickets
from tests import engines, inbox

HOLD_SECONDS = 900


def orders_database(databases: engines.Databases) -> AbstractAsyncContextManager[Database]:
    """A database of orders with nothing running on it."""
    return inbox.service_database(databases, SERVICE)


def listed(
    *,
    seller: UUID | None = None,
    title: str = "Nina Simone, row 4",
    price_cents: int = 1999,
    **offered: Any,
) -> TicketCreated:
    return TicketCreated(
        id=new_id(),
        version=0,
        title=title,
        price_cents=price_cents,
        currency="usd",
        user_id=seller or new_id(),
        **offered,
    )


def changed(ticket: TicketCreated | TicketUpdated, **changes: object) -> TicketUpdated:
    """The ticket's next version, with what changed."""
    fields = {name: getattr(ticket, name) for name in ticket.__struct_fields__}
    return TicketUpdated(**{**fields, "version": ticket.version + 1, **changes})


async def consume(database: Database, *events: Event) -> list[MissingEvents]:
    return await inbox.consume(SERVICE, database, *events)


async def published(database: Database) -> list[Event]:
    return await inbox.published(SERVICE, database)


async def reserve(
    database: Database, ticket_id: UUID, buyer: UUID, *, hold_seconds: int = HOLD_SECONDS
) -> ReservationResult:
    [result] = await reserve_tickets(database, [Reservation(ticket_id, buyer, None)], hold_seconds, 201)
    return result
