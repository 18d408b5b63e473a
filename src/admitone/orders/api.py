"""The routes of orders: reserve a ticket, list and show one's orders, cancel one."""

from admitone.kernel.errors import IdempotencyKeyReused
from admitone.kernel.http import idempotency
from admitone.kernel.http.operations import CREATED, NO_CONTENT, OK, Request, Response, operation
from admitone.kernel.messaging.replicas import wait_for_replica
from admitone.kernel.tracing import current_traceparent
from admitone.orders import store
from admitone.orders.model import (
    NoSuchOrder,
    NoSuchTicket,
    NotYourOrder,
    OrderComplete,
    OwnTicket,
    PaymentInProgress,
    TicketAlreadyReserved,
)
from admitone.orders.resources import Resources
from admitone.orders.store import Reservation
from admitone.orders.views import NewOrder, OrdersQuery, OrdersView, OrderView, view

_REFUSALS = {
    "key reused": IdempotencyKeyReused,
    "no such ticket": NoSuchTicket,
    "own ticket": OwnTicket,
    "already reserved": TicketAlreadyReserved,
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
        buyer_id=request.user.id,
        traceparent=current_traceparent(),
        key=key,
        request_hash=idempotency.request_hash("reserve_ticket", request.input) if key else None,
    )
    result = await wait_for_replica(
        lambda: request.resources.reserve(reservation),
        reservation.ticket_id,
        is_missing=lambda each: each.outcome == "no such ticket",
        waiting=request.waiting(request.service.replica_waits),
    )
    if result.outcome == "already reserved" and key is not None:
        # The same request may have reserved it concurrently: then a second try finds the stored response.
        result = await request.resources.reserve(reservation)
    if result.outcome in _REFUSALS:
        raise _REFUSALS[result.outcome]
    assert result.body is not None
    return Response(CREATED, result.body.encode())


@operation("GET", "/api/orders", query=OrdersQuery, returns=OrdersView, signed_in=True)
async def list_orders(request: Request[OrdersQuery, Resources]) -> Response:
    """List the caller's orders, newest first, in every status."""
    query = request.input
    found = await store.orders_of_buyer(request.db, request.user.id, query.limit + 1, query.cursor)
    page = found[: query.limit]
    return Response(
        OK,
        OrdersView(
            orders=[view(order, read_at) for order, read_at in page],
            cursor=page[-1][0].id if len(found) > query.limit else None,
        ),
    )


@operation("GET", "/api/orders/{id}", returns=OrderView, raises=(NotYourOrder, NoSuchOrder), signed_in=True)
async def show_order(request: Request[None, Resources]) -> Response:
    """Show one of the caller's orders."""
    found = await store.order(request.db, request.id())
    if found is None:
        raise NoSuchOrder
    order, read_at = found
    return Response(OK, view(order.for_buyer(request.user.id), read_at))


@operation(
    "DELETE",
    "/api/orders/{id}",
    status=NO_CONTENT,
    raises=(NotYourOrder, NoSuchOrder, OrderComplete, PaymentInProgress),
    signed_in=True,
)
async def cancel_order(request: Request[None, Resources]) -> Response:
    """Cancel an order and free its ticket. Cancelling a cancelled order changes nothing."""
    async with request.db.transaction() as tx:
        order = (await store.orders_for_change(tx, [request.id()])).get(request.id())
        if order is None:
            raise NoSuchOrder
        cancelled = order.for_buyer(request.user.id).cancelled_by_buyer()
        if cancelled is not order:
            await store.save_orders(tx, [cancelled])
            tx.publish(cancelled.event())
    return Response(NO_CONTENT)
