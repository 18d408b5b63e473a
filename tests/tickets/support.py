"""What the tests of tickets share: an application, tickets on sale, and events of orders."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import httpx
import msgspec

from admitone.auth.service import SERVICE as AUTH
from admitone.events import CancelReason, OrderCancelled, OrderCompleted, OrderCreated, OrderedTicket
from admitone.kernel.clock import now
from admitone.kernel.database.pool import Database
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.event import Event
from admitone.kernel.messaging.handlers import MissingEvents
from admitone.kernel.runner import App
from admitone.tickets import store
from admitone.tickets.model import Ticket
from admitone.tickets.service import SERVICE as TICKETS
from admitone.tickets.views import TicketListing, TicketView
from tests import engines, inbox
from tests.support import StartNats, running_app

FADO: Final[Mapping[str, Any]] = {"title": "Fado night", "price": 19.99}
UNKNOWN: Final = "01890a5d-ac96-774b-bcce-b302099a8057"


def tickets_app(databases: engines.Databases, start_nats: StartNats) -> AbstractAsyncContextManager[App]:
    """Tickets, with auth beside it to sign people in."""
    return running_app(databases, start_nats, AUTH, TICKETS)


def tickets_database(databases: engines.Databases) -> AbstractAsyncContextManager[Database]:
    """A database of tickets with nothing running on it."""
    return inbox.service_database(databases, TICKETS)


def listing_of(price_cents: int = 1999) -> TicketListing:
    return TicketListing(title="Fado night", price=Decimal(price_cents).scaleb(-2))


async def insert(database: Database, listing: TicketListing, seller_id: UUID | None = None) -> dict[str, Any]:
    """List a ticket without the API; return it as the API shows it."""
    ticket = Ticket(new_id(), 0, seller_id or new_id(), listing.offer("usd"))
    async with database.transaction() as tx:
        shown_json = await store.insert_ticket(tx, ticket)
        tx.publish(ticket.created_event())
    found: dict[str, Any] = msgspec.json.decode(shown_json)
    return found


async def list_ticket(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """List a ticket; return it as the API shows it."""
    response = await client.post("/api/tickets", json={**FADO, **fields})
    assert response.status_code == 201, response.text
    return shown(response)


async def show(client: httpx.AsyncClient, ticket_id: object) -> dict[str, Any]:
    response = await client.get(f"/api/tickets/{ticket_id}")
    assert response.status_code == 200, response.text
    return shown(response)


def shown(response: httpx.Response) -> dict[str, Any]:
    """Return a ticket's JSON, checked against the type that documents it."""
    parsed = msgspec.convert(response.json(), TicketView, strict=False)
    assert {msgspec.structs.fields(TicketView)[n].encode_name for n in range(8)} <= set(response.json())
    assert set(response.json()) <= {field.encode_name for field in msgspec.structs.fields(TicketView)}
    assert (parsed.order_id is None) == (parsed.status == "available")
    found: dict[str, Any] = response.json()
    return found


def order_of(ticket: Mapping[str, Any], **changes: Any) -> OrderCreated:
    """An order of a ticket that the API has shown, as orders publishes it."""
    ordered = {
        "id": UUID(ticket["id"]),
        "version": ticket["version"],
        "price_cents": round(ticket["price"] * 100),
        "currency": ticket["currency"],
    }
    return OrderCreated(
        id=new_id(),
        version=0,
        status="created",
        user_id=new_id(),
        expires_at=now() + timedelta(minutes=15),
        ticket=OrderedTicket(**{**ordered, **changes}),
    )


def cancelled(order: OrderCreated, reason: CancelReason = "expired") -> OrderCancelled:
    return OrderCancelled(id=order.id, version=1, user_id=order.user_id, ticket_id=order.ticket.id, reason=reason)


def completed(order: OrderCreated) -> OrderCompleted:
    return OrderCompleted(id=order.id, version=2, user_id=order.user_id, ticket_id=order.ticket.id, payment_id=new_id())


async def consume(database: Database, *events: Event | bytes) -> list[MissingEvents]:
    return await inbox.consume(TICKETS, database, *events)


def database_of(app: App) -> Database:
    return app.running["tickets"].database
