"""The routes of tickets: look at what is on sale, list a ticket, edit it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, cast
from uuid import UUID

from admitone.kernel import answers, ids
from admitone.kernel.http import CREATED, NOT_MODIFIED, OK, Answer, Call, operation
from admitone.kernel.service import Running
from admitone.kernel.sharing import Shared
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

_VERSION: Final = "Names the ticket's version."
_EXAMPLE: Final = {"title": "Fado night, two seats", "price": 19.99, "venue": "Clube de Fado", "section": "A"}


@dataclass(frozen=True)
class Looking:
    """How people look at tickets: those who want to see the same at the same time share one statement."""

    shelf: Shared[TicketSearch, bytes]
    ticket: Shared[UUID, tuple[int, bytes] | None]


@asynccontextmanager
async def looking(service: Running) -> AsyncIterator[Looking]:
    yield Looking(
        shelf=Shared(lambda search: store.shelf(service.database, search)),
        ticket=Shared(lambda ticket_id: store.shown_ticket(service.database, ticket_id)),
    )


def _tag(version: int) -> tuple[bytes, bytes]:
    return (b"etag", f'"{version}"'.encode())


# Whoever keeps a ticket's JSON asks whether it still holds before using it.
_REVALIDATE: Final = (b"cache-control", b"no-cache")


@operation("GET", "/api/tickets", query=TicketSearch, answers=ShownTickets, refuses=(BadCursor,))
async def list_tickets(call: Call[None]) -> Answer:
    """List tickets that can be bought now.

    Search by the beginnings of words in title and venue; a page's `cursor` leads to the next one.
    """
    return Answer(OK, await cast("Looking", call.service.own).shelf(call.query))


@operation("GET", "/api/tickets/mine", query=OwnTicketsPage, answers=ShownTickets, refuses=(BadCursor,), signed_in=True)
async def list_own_tickets(call: Call[None]) -> Answer:
    """List the caller's own tickets, newest first, in every state."""
    return Answer(OK, await store.tickets_of_seller(call.db, call.person.id, call.query))


@operation(
    "GET",
    "/api/tickets/{id}",
    answers=ShownTicket,
    refuses=(NoSuchTicket,),
    headers={"If-None-Match": "The `ETag` of a copy one has; when it still holds, the answer is 304 without a body."},
    sends={"ETag": _VERSION},
    otherwise={NOT_MODIFIED: "The copy still holds."},
)
async def show_ticket(call: Call[None]) -> Answer:
    """Show a ticket in whatever state; its `ETag` is what an edit sends as `If-Match`."""
    found = await cast("Looking", call.service.own).ticket(call.id())
    if found is None:
        raise NoSuchTicket
    version, shown = found
    kept = call.header("if-none-match")
    if kept is not None and version in Versions(kept):
        return Answer(NOT_MODIFIED, headers=(_tag(version), _REVALIDATE))
    return Answer(OK, shown, headers=(_tag(version), _REVALIDATE))


@operation(
    "POST",
    "/api/tickets",
    status=CREATED,
    body=TicketListing,
    answers=ShownTicket,
    signed_in=True,
    idempotent=True,
    sends={"ETag": _VERSION},
    examples={"request": _EXAMPLE},
)
async def list_ticket(call: Call[TicketListing]) -> Answer:
    """List a ticket: put it on sale at a price, in the marketplace's currency."""
    seller, key = call.person.id, call.idempotency_key
    request = answers.request_hash("list_ticket", call.body)
    async with call.db.transaction() as tx:
        answer = await answers.recall(tx, seller, key, request)
        if answer is None:
            ticket = Ticket.listed(ids.new_id(), seller, call.body, call.settings.currency)
            shown = await store.list_ticket(tx, ticket, call.body)
            answer = await answers.remember(tx, seller, key, request, Answer(CREATED, shown))
    return replace(answer, headers=(_tag(0),))


@operation(
    "PUT",
    "/api/tickets/{id}",
    body=TicketListing,
    answers=ShownTicket,
    refuses=(NoSuchTicket, NotYourTicket, TicketReserved, TicketSold, TicketChanged),
    signed_in=True,
    headers={
        "If-Match": "The `ETag` of the ticket as one read it; without it, whatever came in between is overwritten."
    },
    sends={"ETag": _VERSION},
    examples={"request": _EXAMPLE},
)
async def edit_ticket(call: Call[TicketListing]) -> Answer:
    """Edit one's own ticket while nobody holds it: the body replaces all that was said before.

    Every accepted edit is a new version, even one that says the same again.
    """
    condition = call.header("if-match")
    expected = ANY_VERSION if condition is None else Versions(condition)
    async with call.db.transaction() as tx:
        ticket = await store.ticket_for_change(tx, call.id())
        if ticket is None:
            raise NoSuchTicket
        edited = ticket.edited(call.person.id, call.body, expected)
        shown = await store.save_edit(tx, edited, call.body)
    return Answer(OK, shown, headers=(_tag(edited.version),))
