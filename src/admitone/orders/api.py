"""The routes of orders: reserve a ticket, look at one's orders, cancel."""

from admitone.kernel.errors import IdempotencyKeyReused
from admitone.kernel.http import idempotency
from admitone.kernel.http.operations import CREATED, NO_CONTENT, OK, Request, Response, operation
from admitone.kernel.messaging.replicas import wait_for_replica
from admitone.kernel.tracing import current_traceparent
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
from admitone.orders.resources import Resources
from admitone.orders.store import Reservation

_REFUSED = {
    "key reused": IdempotencyKeyReused,
    "no such ticket": NoSuchTicket,
    "own ticket": OwnTicket,
    "reserved": TicketAlreadyReserved,
}


@operation(
    "POST",
    "/api/orders",
    status=CREATED,
    body=NewOrder,
    returns=OrderView,
    raises=(NoSuchTicket, OwnTicket, TicketAlreadyReserved),
    signed_in=True,
    idempotent=True,
    examples={"request": {"ticketId": "01980a7e-5a4c-7c31-9f0e-3b1d2c4f5a66"}},
)
async def reserve_ticket(request: Request[NewOrder, Resources]) -> Response:
    """Reserve a ticket.

    The ticket is held for the caller until `expiresAt`, at the price it has now.
    """
    key = request.idempotency_key
    reservation = Reservation(
        ticket_id=request.input.ticket_id,
        user_id=request.user.id,
        traceparent=current_traceparent(),
        key=key,
        request_hash=idempotency.request_hash("reserve_ticket", request.input) if key else None,
    )
    reserved = await wait_for_replica(
        lambda: request.resources.reserve(reservation),
        reservation.ticket_id,
        is_missing=lambda each: each.outcome == "no such ticket",
    )
    if reserved.outcome == "reserved" and key is not None:
        # The same request may have won while this one was deciding: then asking again recalls its response.
        reserved = await request.resources.reserve(reservation)
    if reserved.body is None or reserved.outcome in _REFUSED:
        raise _REFUSED[reserved.outcome]
    return Response(CREATED, reserved.body.encode())


@operation("GET", "/api/orders", query=OrderPage, returns=OrdersView, signed_in=True)
async def list_orders(request: Request[OrderPage, Resources]) -> Response:
    """List the caller's orders, newest first, in every status."""
    page = request.input
    found = await store.orders_of(request.db, request.user.id, page.limit + 1, page.cursor)
    shown = found[: page.limit]
    return Response(
        OK,
        OrdersView(
            orders=[order.view(read_at) for order, read_at in shown],
            cursor=shown[-1][0].id if len(found) > page.limit else None,
        ),
    )


@operation("GET", "/api/orders/{id}", returns=OrderView, raises=(NotYourOrder, NoSuchOrder), signed_in=True)
async def show_order(request: Request[None, Resources]) -> Response:
    """Show one of the caller's orders."""
    found = await store.order(request.db, request.id())
    if found is None:
        raise NoSuchOrder
    order, read_at = found
    return Response(OK, order.seen_by(request.user.id).view(read_at))


@operation(
    "DELETE",
    "/api/orders/{id}",
    status=NO_CONTENT,
    raises=(NotYourOrder, NoSuchOrder, OrderComplete, PaymentUnderWay),
    signed_in=True,
)
async def cancel_order(request: Request[None, Resources]) -> Response:
    """Cancel an order and free its ticket. Cancelling a cancelled order changes nothing."""
    async with request.db.transaction() as tx:
        order = await store.order_for_change(tx, request.id())
        if order is None:
            raise NoSuchOrder
        cancelled = order.seen_by(request.user.id).cancelled_by_buyer()
        if cancelled is not order:
            await store.save(tx, cancelled)
    return Response(NO_CONTENT)
