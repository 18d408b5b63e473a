"""The resources of tickets: the currency of prices, and reads that concurrent requests share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from admitone.kernel.running import RunningService
from admitone.kernel.single_flight import SingleFlight
from admitone.policy import MarketplacePolicy
from admitone.tickets import store
from admitone.tickets.views import TicketSearch, tickets_json


@dataclass(frozen=True)
class Resources:
    """`listings` and `ticket` return JSON; `listings` raises BadCursor."""

    currency: str
    listings: SingleFlight[TicketSearch, bytes]
    ticket: SingleFlight[UUID, tuple[int, bytes] | None]


@asynccontextmanager
async def open_resources(service: RunningService[None]) -> AsyncIterator[Resources]:
    async def listings(search: TicketSearch) -> bytes:
        page = await store.listings(service.database, search.sort, search.words, search.after, search.limit)
        return tickets_json(page.tickets, search.scope, page.following)

    yield Resources(
        currency=service.settings.read(MarketplacePolicy).currency,
        listings=SingleFlight(listings),
        ticket=SingleFlight(lambda ticket_id: store.shown_ticket(service.database, ticket_id)),
    )
