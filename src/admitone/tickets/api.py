"""The routes of tickets: search the listings, show a ticket, list one, edit it."""

from dataclasses import replace
from typing import Final

from admitone.kernel import ids
from admitone.kernel.http import idempotency
from admitone.kernel.http.operations import CREATED, NOT_MODIFIED, OK, Request, Response, operation
from admitone.tickets import store
from admitone.tickets.model import NoSuchTicket, NotYourTicket, Ticket, TicketChanged, TicketReserved, TicketSold
from admitone.tickets.resources import Resources
from admitone.tickets.views import (
    ANY_VERSION,
    BadCursor,
    EntityTags,
    OwnTicketsQuery,
    TicketListing,
    TicketSearch,
    TicketsView,
    TicketView,
    tickets_json,
)

_VERSION: Final = "The ticket's version."
_EXAMPLE: Final = {"title": "Fado night, two seats", "price": 19.99, "venue": "Clube de Fado", "section": "A"}


def _tag(version: int) -> tuple[bytes, bytes]:
    return (b"etag", f'"{version}"'.encode())


# A cache may keep a ticket's JSON but must revalidate it before each use.
_REVALIDATE: Final = (b"cache-control", b"no-cache")


@operation("GET", "/api/tickets", query=TicketSearch, returns=TicketsView, raises=(BadCursor,))
async def list_tickets(request: Request[TicketSearch, Resources]) -> Response:
    """List tickets that can be bought now.

    Search by the beginnings of words in title and venue; a page's `cursor` leads to the next one.
    """
    return Response(OK, await request.resources.listings(request.input))


@operation("GET", "/api/tickets/mine", query=OwnTicketsQuery, returns=TicketsView, raises=(BadCursor,), signed_in=True)
async def list_own_tickets(request: Request[OwnTicketsQuery, Resources]) -> Response:
    """List the caller's own tickets, newest first, in every state."""
    query, seller_id = request.input, request.user.id
    scope = f"seller {seller_id}"
    page = await store.tickets_of_seller(request.db, seller_id, query.after(scope), query.limit)
    return Response(OK, tickets_json(page.tickets, scope, page.following))


@operation(
    "GET",
    "/api/tickets/{id}",
    returns=TicketView,
    raises=(NoSuchTicket,),
    request_headers={"If-None-Match": "The `ETag` of a copy; while it is current, the response is 304 without a body."},
    response_headers={"ETag": _VERSION},
    other_responses={NOT_MODIFIED: "The copy is current."},
)
async def show_ticket(request: Request[None, Resources]) -> Response:
    """Show a ticket in any state; an edit sends its `ETag` as `If-Match`."""
    found = await request.resources.ticket(request.id())
    if found is None:
        raise NoSuchTicket
    version, shown = found
    condition = request.http.headers.get("if-none-match")
    if condition is not None and version in EntityTags(condition):
        return Response(NOT_MODIFIED, headers=(_tag(version), _REVALIDATE))
    return Response(OK, shown, headers=(_tag(version), _REVALIDATE))


@operation(
    "POST",
    "/api/tickets",
    status=CREATED,
    body=TicketListing,
    returns=TicketView,
    signed_in=True,
    idempotent=True,
    response_headers={"ETag": _VERSION},
    examples={"request": _EXAMPLE},
)
async def list_ticket(request: Request[TicketListing, Resources]) -> Response:
    """List a ticket: put it on sale at a price, in the marketplace's currency."""
    seller_id, key = request.user.id, request.idempotency_key
    fingerprint = idempotency.request_hash("list_ticket", request.input)
    async with request.db.transaction() as tx:
        response = await idempotency.stored_response(tx, seller_id, key, fingerprint)
        if response is None:
            ticket = Ticket(ids.new_id(), 0, seller_id, request.input.offer(request.resources.currency))
            shown = await store.insert_ticket(tx, ticket)
            tx.publish(ticket.created_event())
            response = await idempotency.store_response(tx, seller_id, key, fingerprint, Response(CREATED, shown))
    return replace(response, headers=(_tag(0),))


@operation(
    "PUT",
    "/api/tickets/{id}",
    body=TicketListing,
    returns=TicketView,
    raises=(NoSuchTicket, NotYourTicket, TicketReserved, TicketSold, TicketChanged),
    signed_in=True,
    request_headers={
        "If-Match": "The `ETag` of the ticket as it was read; without it, edits made since then are overwritten."
    },
    response_headers={"ETag": _VERSION},
    examples={"request": _EXAMPLE},
)
async def edit_ticket(request: Request[TicketListing, Resources]) -> Response:
    """Edit one's own ticket while nobody holds it: the body replaces the whole listing.

    Every accepted edit is a new version, even one that changes nothing.
    """
    condition = request.http.headers.get("if-match")
    expected = ANY_VERSION if condition is None else EntityTags(condition)
    async with request.db.transaction() as tx:
        ticket = (await store.tickets_for_change(tx, [request.id()])).get(request.id())
        if ticket is None:
            raise NoSuchTicket
        edited = ticket.edited(request.user.id, request.input.offer(ticket.offer.currency), expected)
        shown = await store.save_edit(tx, edited)
        tx.publish(edited.updated_event())
    return Response(OK, shown, headers=(_tag(edited.version),))
