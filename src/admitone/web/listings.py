"""Looking at tickets: the listings with search, sort and paging, and the page of one ticket."""

from decimal import Decimal
from typing import Final, Literal, NamedTuple
from uuid import UUID

from starlette.responses import Response

from admitone.kernel import ids
from admitone.kernel.errors import Forbidden, Invalid, NotFound, NotSignedIn, Unavailable
from admitone.kernel.http.operations import OK
from admitone.kernel.single_flight import SingleFlight
from admitone.web import render
from admitone.web.api_client import ServiceRefused, TicketJson, TicketListJson, parse_tickets
from admitone.web.compression import compress
from admitone.web.page_request import PageRequest, with_query
from admitone.web.resources import WebResources

_TICKETS_PER_PAGE: Final = 50
_SORTS: Final = ("newest", "date", "price", "-price")
_CACHED_PAGES_MAX: Final = 256
_SEARCH_CHARACTERS_MAX: Final = 100

# What a ticket is to the user who looks at it.
TicketPageState = Literal["buyable", "listed", "held", "bought", "reserved", "sold"]


class ListingsQuery(NamedTuple):
    """The search, order and page of the listings that a request asks for."""

    q: str
    sort: str
    cursor: str


class _Fetched(NamedTuple):
    content: bytes
    live_id: str


class _Rendered(NamedTuple):
    fetched: _Fetched
    html: bytes
    compressed: bytes


class ListingsPageCache:
    """The page of tickets that can be bought now.

    Each request sees listings that were read after it arrived: concurrent requests share one read, and the rendered
    page is reused only while the JSON it was made from is the same.
    """

    def __init__(self, resources: WebResources) -> None:
        self._resources = resources
        self._fetch_once = SingleFlight(self._fetch)
        self._rendered: dict[tuple[ListingsQuery, bool], _Rendered] = {}
        self._parsed: dict[ListingsQuery, tuple[bytes, TicketListJson]] = {}

    async def _fetch(self, query: ListingsQuery) -> _Fetched:
        # The id is read first: the live stream then delivers whatever changes after this moment.
        live_id = self._resources.hub.last_id
        given = {name: value for name, value in query._asdict().items() if value}
        content = await self._resources.api.tickets({"limit": str(_TICKETS_PER_PAGE), **given})
        return _Fetched(content, live_id)

    async def show(self, request: PageRequest) -> Response:
        sort = request.query("sort", "newest")
        query = ListingsQuery(
            request.query("q").strip()[:_SEARCH_CHARACTERS_MAX],
            sort if sort in _SORTS else "newest",
            request.query("cursor"),
        )
        try:
            fetched = await self._fetch_once(query)
        except ServiceRefused as refused:
            if not issubclass(refused.kind, Invalid) or not query.cursor:
                raise
            fetched = await self._fetch_once(query._replace(cursor=""))  # the cursor was outdated or made up
        # The page depends on nothing else about the user, so all users share it.
        key = (query, request.maybe_user is not None)
        rendered = self._rendered.get(key)
        if rendered is None or rendered.fetched != fetched:
            html = self._render(request, query, fetched)
            if len(self._rendered) >= _CACHED_PAGES_MAX:
                self._rendered.clear()
            rendered = self._rendered[key] = _Rendered(fetched, html, compress(html))
        return request.respond(rendered.html, compressed=rendered.compressed)

    def _render(self, request: PageRequest, query: ListingsQuery, fetched: _Fetched) -> bytes:
        listings = self._parse(query, fetched.content)
        next_url = None
        if listings.cursor:
            next_url = with_query("/", q=query.q, sort=_sort_parameter(query.sort), cursor=listings.cursor)
        return request.render(
            "list.html",
            f"Tickets for “{query.q}”" if query.q else "Tickets",
            live_id=fetched.live_id,
            q=query.q,
            sort=query.sort,
            cards=render.cards(listings.tickets),
            count=_count(listings, query),
            listings_url=_listings_url,
            next_url=next_url,
            first_url=_listings_url(query.q, query.sort) if query.cursor else None,
        )

    def _parse(self, query: ListingsQuery, content: bytes) -> TicketListJson:
        cached = self._parsed.get(query)
        if cached is not None and cached[0] == content:
            return cached[1]
        listings = parse_tickets(content)
        if len(self._parsed) >= _CACHED_PAGES_MAX:
            self._parsed.clear()
        self._parsed[query] = (content, listings)
        return listings


def _sort_parameter(sort: str) -> str:
    return "" if sort == "newest" else sort


def _listings_url(q: str, sort: str) -> str:
    return with_query("/", q=q, sort=_sort_parameter(sort))


def _count(listings: TicketListJson, query: ListingsQuery) -> str:
    count = len(listings.tickets)
    if not count:
        return ""
    if listings.cursor is not None or query.cursor:
        return f"{count} tickets on this page"
    return "1 ticket" if count == 1 else f"{count} tickets"


async def show_ticket(request: PageRequest) -> Response:
    return await ticket_page(request, request.id)


async def ticket_page(
    request: PageRequest, ticket_id: UUID, *, seen_price: Decimal | None = None, status: int = OK
) -> Response:
    """Return a ticket's page; `seen_price` is the price the user saw, if the ticket has another price now."""
    live_id = request.resources.hub.last_id
    ticket, _ = await request.api.ticket(ticket_id)
    return request.page(
        "ticket.html",
        ticket.title,
        status=status,
        live_id=live_id,
        ticket=ticket,
        state=await _state(request, ticket),
        seen_price=seen_price,
        key=ids.new_token(16),
    )


async def _state(request: PageRequest, ticket: TicketJson) -> TicketPageState:
    user = request.maybe_user
    if user is not None and user.id == ticket.user_id:
        return "listed"
    if ticket.status == "available":
        return "buyable"
    if user is not None and ticket.order_id is not None and await _is_order_of_user(request, ticket.order_id):
        return "held" if ticket.status == "reserved" else "bought"
    return ticket.status


async def _is_order_of_user(request: PageRequest, order_id: UUID) -> bool:
    try:
        await request.api.order(request.forwarded, order_id)
    except ServiceRefused as refused:
        # Without an answer from orders, the page shows what everybody may see.
        if issubclass(refused.kind, (Forbidden, NotFound, NotSignedIn, Unavailable)):
            return False
        raise
    return True
