"""What the tests of tickets share: an application, tickets on sale, and orders to hear of."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import httpx
import msgspec

from admitone.auth.service import SERVICE as AUTH
from admitone.events import CancelReason, OrderCancelled, OrderCompleted, OrderCreated, OrderedTicket
from admitone.kernel.clock import now
from admitone.kernel.database.pool import Database
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import Event, unwrap, wrap
from admitone.kernel.messaging.inbox import Inbox, MissingEvents
from admitone.kernel.runner import App
from admitone.tickets.model import ShownTicket
from admitone.tickets.service import SERVICE as TICKETS
from tests import engines
from tests.support import StartNats, running_app

FADO: Final[Mapping[str, Any]] = {"title": "Fado night", "price": 19.99}
UNKNOWN: Final = "01890a5d-ac96-774b-bcce-b302099a8057"


def tickets_app(databases: engines.Databases, start_nats: StartNats) -> Any:
    """Tickets, with auth beside it to sign people in."""
    return running_app(databases, start_nats, AUTH, TICKETS)


@asynccontextmanager
async def tickets_database(databases: engines.Databases) -> AsyncIterator[Database]:
    """A database of tickets without anything running on it."""
    fresh = await databases.fresh("tickets")
    database = await Database.connect(fresh.url, application="tickets")
    try:
        yield database
    finally:
        await database.close()


async def list_ticket(client: httpx.AsyncClient, **said: Any) -> dict[str, Any]:
    """Put a ticket on sale; return it as the API shows it."""
    answer = await client.post("/api/tickets", json={**FADO, **said})
    assert answer.status_code == 201, answer.text
    return shown(answer)


async def show(client: httpx.AsyncClient, ticket_id: object) -> dict[str, Any]:
    answer = await client.get(f"/api/tickets/{ticket_id}")
    assert answer.status_code == 200, answer.text
    return shown(answer)


def shown(answer: httpx.Response) -> dict[str, Any]:
    """Return a ticket's JSON, having checked that it has the shape that is promised and nothing else."""
    parsed = msgspec.convert(answer.json(), ShownTicket, strict=False)
    assert {msgspec.structs.fields(ShownTicket)[n].encode_name for n in range(8)} <= set(answer.json())
    assert set(answer.json()) <= {field.encode_name for field in msgspec.structs.fields(ShownTicket)}
    assert (parsed.order_id is None) == (parsed.status == "available")
    found: dict[str, Any] = answer.json()
    return found


def order_of(ticket: Mapping[str, Any], **changes: Any) -> OrderCreated:
    """An order as orders tells it for a ticket as the API shows it."""
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


def on_the_bus(event: Event) -> bytes:
    """The event as its producer's relay would publish it, with a fresh event id."""
    return wrap(new_id(), event.producer, type(event).__name__, event.aggregate, now(), event.encode(), None)


async def hear(database: Database, *events: Event | bytes) -> list[MissingEvents]:
    """Take events in together, in order, as if they came from the bus; return the gaps they met."""
    messages = [event if isinstance(event, bytes) else on_the_bus(event) for event in events]
    inbox = Inbox("tickets", database, Bus("tickets"), TICKETS.subscriptions)
    async with database.transaction() as tx:
        missing = await inbox.consume(tx, [unwrap(message) for message in messages])
    return list(missing.values())


def database_of(app: App) -> Database:
    return app.running["tickets"].database
