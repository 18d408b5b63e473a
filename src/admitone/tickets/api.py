"""The routes of tickets: look at what is on sale, list a ticket, edit it."""

from dataclasses import replace
from typing import Final

from admitone.kernel import ids
from admitone.kernel.http import idempotency
from admitone.kernel.http.operations import CREATED, NOT_MODIFIED, OK, Request, Response, operation
from admitone.tickets import store
from admitone.tickets.model import (
    ANY_VERSION,
    BadCursor,
    NoSuchTicket,
    NotYourTicket,
    OwnTicketsPage,
    ShownTicket,
    ShownTickets,
    Ticket,
    TicketChanged,
    TicketListing,
    TicketReserved,
    TicketSearch,
    TicketSold,
    Versions,
)
from admitone.tickets.resources import Resources

_VERSION: Final = "Names the ticket's version."
_EXAMPLE: Final = {"title": "Fado night, two seats", "price": 19.99, "venue": "Clube de Fado", "section": "A"}


def _tag(version: int) -> tuple[bytes, bytes]:
    return (b"etag", f'"{version}"'.encode())


# Whoever keeps a ticket's JSON asks whether it still holds before using it.
_REVALIDATE: Final = (b"cache-control", b"no-cache")


@operation("GET", "/api/tickets", query=TicketSearch, returns=ShownTickets, raises=(BadCursor,))
async def list_tickets(request: Request[TicketSearch, Resources]) -> Response:
    """List tickets that can be bought now.

    Search by the beginnings of words in title and venue; a page's `cursor` leads to the next one.
    """
    return Response(OK, await request.resources.listings(request.input))


@operation("GET", "/api/tickets/mine", query=OwnTicketsPage, returns=ShownTickets, raises=(BadCursor,), signed_in=True)
async def list_own_tickets(request: Request[OwnTicketsPage, Resources]) -> Response:
    """List the caller's own tickets, newest first, in every state."""
    return Response(OK, await store.tickets_of_seller(request.db, request.user.id, request.input))


@operation(
    "GET",
    "/api/tickets/{id}",
    returns=ShownTicket,
    raises=(NoSuchTicket,),
    request_headers={
        "If-None-Match": "The `ETag` of a copy one has; when it still holds, the response is 304 without a body."
    },
    response_headers={"ETag": _VERSION},
    other_responses={NOT_MODIFIED: "The copy still holds."},
)
async def show_ticket(request: Request[None, Resources]) -> Response:
    """Show a ticket in whatever state; its `ETag` is what an edit sends as `If-Match`."""
    found = await request.resources.ticket(request.id())
    if found is None:
        raise NoSuchTicket
    version, shown = found
    kept = request.header("if-none-match")
    if kept is not None and version in Versions(kept):
        return Response(NOT_MODIFIED, headers=(_tag(version), _REVALIDATE))
    return Response(OK, shown, headers=(_tag(version), _REVALIDATE))


@operation(
    "POST",
    "/api/tickets",
    status=CREATED,
    body=TicketListing,
    returns=ShownTicket,
    signed_in=True,
    idempotent=True,
    response_headers={"ETag": _VERSION},
    examples={"request": _EXAMPLE},
)
async def list_ticket(request: Request[TicketListing, Resources]) -> Response:
    """List a ticket: put it on sale at a price, in the marketplace's currency."""
    seller, key = request.user.id, request.idempotency_key
    fingerprint = idempotency.request_hash("list_ticket", request.input)
    async with request.db.transaction() as tx:
        response = await idempotency.stored_response(tx, seller, key, fingerprint)
        if response is None:
            ticket = Ticket.listed(ids.new_id(), seller, request.input, request.resources.currency)
            shown = await store.list_ticket(tx, ticket, request.input)
            response = await idempotency.store_response(tx, seller, key, fingerprint, Response(CREATED, shown))
    return replace(response, headers=(_tag(0),))


@operation(
    "PUT",
    "/api/tickets/{id}",
    body=TicketListing,
    returns=ShownTicket,
    raises=(NoSuchTicket, NotYourTicket, TicketReserved, TicketSold, TicketChanged),
    signed_in=True,
    request_headers={
        "If-Match": "The `ETag` of the ticket as one read it; without it, whatever came in between is overwritten."
    },
    response_headers={"ETag": _VERSION},
    examples={"request": _EXAMPLE},
)
async def edit_ticket(request: Request[TicketListing, Resources]) -> Response:
    """Edit one's own ticket while nobody holds it: the body replaces all that was said before.

    Every accepted edit is a new version, even one that says the same again.
    """
    condition = request.header("if-match")
    expected = ANY_VERSION if condition is None else Versions(condition)
    async with request.db.transaction() as tx:
        ticket = (await store.tickets_for_change(tx, [request.id()])).get(request.id())
        if ticket is None:
            raise NoSuchTicket
        edited = ticket.edited(request.user.id, request.input, expected)
        shown = await store.save_edit(tx, edited, request.input)
    return Response(OK, shown, headers=(_tag(edited.version),))
