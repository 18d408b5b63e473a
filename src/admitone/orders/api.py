"""The routes of orders: reserve a ticket, look at one's orders, cancel."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

from admitone.kernel import answers
from admitone.kernel.arrival import once_here
from admitone.kernel.gather import Gatherer
from admitone.kernel.http import CREATED, NO_CONTENT, OK, Answer, Call, operation
from admitone.kernel.refusals import KeyReused
from admitone.kernel.service import Running
from admitone.kernel.trace import current_traceparent
from admitone.orders import store
from admitone.orders.model import (
    NewOrder,
    NoSuchOrder,
    NoSuchTicket,
    NotYourOrder,
    OrderComplete,
    OrderPage,
    OrdersView,
    OrderView,
    OwnTicket,
    PaymentUnderWay,
    TicketAlreadyReserved,
)
from admitone.orders.store import Reservation, Reserved

Reserving = Gatherer[Reservation, Reserved]

_REFUSED = {
    "key reused": KeyReused,
    "no such ticket": NoSuchTicket,
    "own ticket": OwnTicket,
    "reserved": TicketAlreadyReserved,
}


@asynccontextmanager
async def reserving(service: Running) -> AsyncIterator[Reserving]:
    """Gather reservations that arrive while others are on their way to the database into one statement."""

    async def reserve(reservations: Sequence[Reservation]) -> list[Reserved]:
        return await store.reserve_tickets(
            service.database, reservations, service.settings.order_window_seconds, CREATED
        )

    yield Gatherer(reserve)


@operation(
    "POST",
    "/api/orders",
    status=CREATED,
    body=NewOrder,
    answers=OrderView,
    refuses=(NoSuchTicket, OwnTicket, TicketAlreadyReserved),
    signed_in=True,
    idempotent=True,
    examples={"request": {"ticketId": "01980a7e-5a4c-7c31-9f0e-3b1d2c4f5a66"}},
)
async def reserve_ticket(call: Call[NewOrder]) -> Answer:
    """Reserve a ticket.

    The ticket is held for the caller until `expiresAt`, at the price it has now.
    """
    key = call.idempotency_key
    reservation = Reservation(
        ticket_id=call.body.ticket_id,
        user_id=call.person.id,
        traceparent=current_traceparent(),
        key=key,
        request_hash=answers.request_hash("reserve_ticket", call.body) if key else None,
    )
    gathered = cast("Reserving", call.service.own)
    reserved = await once_here(
        lambda: gathered(reservation), reservation.ticket_id, is_missing=lambda each: each.outcome == "no such ticket"
    )
    if reserved.outcome == "reserved" and key is not None:
        # The same request may have won while this one was deciding: then asking again recalls its answer.
        reserved = await gathered(reservation)
    if reserved.body is None or reserved.outcome in _REFUSED:
        raise _REFUSED[reserved.outcome]
    return Answer(CREATED, reserved.body.encode())


@operation("GET", "/api/orders", query=OrderPage, answers=OrdersView, signed_in=True)
async def list_orders(call: Call[None]) -> Answer:
    """List the caller's orders, newest first, in every status."""
    page: OrderPage = call.query
    found = await store.orders_of(call.db, call.person.id, page.limit + 1, page.cursor)
    shown = found[: page.limit]
    return Answer(
        OK,
        OrdersView(
            orders=[order.view(read_at) for order, read_at in shown],
            cursor=shown[-1][0].id if len(found) > page.limit else None,
        ),
    )


@operation("GET", "/api/orders/{id}", answers=OrderView, refuses=(NotYourOrder, NoSuchOrder), signed_in=True)
async def show_order(call: Call[None]) -> Answer:
    """Show one of the caller's orders."""
    found = await store.order(call.db, call.id())
    if found is None:
        raise NoSuchOrder
    order, read_at = found
    return Answer(OK, order.seen_by(call.person.id).view(read_at))


@operation(
    "DELETE",
    "/api/orders/{id}",
    status=NO_CONTENT,
    refuses=(NotYourOrder, NoSuchOrder, OrderComplete, PaymentUnderWay),
    signed_in=True,
)
async def cancel_order(call: Call[None]) -> Answer:
    """Cancel an order and free its ticket. Cancelling a cancelled order changes nothing."""
    async with call.db.transaction() as tx:
        order = await store.order_for_change(tx, call.id())
        if order is None:
            raise NoSuchOrder
        cancelled = order.seen_by(call.person.id).cancelled_by_buyer()
        if cancelled is not order:
            await store.save(tx, cancelled)
    return Answer(NO_CONTENT)
