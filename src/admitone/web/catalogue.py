"""Looking at tickets: the list with search, sort and paging, and one ticket in every state it can be in."""

from decimal import Decimal
from typing import Final, NamedTuple

from starlette.responses import Response

from admitone.kernel import ids
from admitone.kernel.errors import Forbidden, Invalid, NotFound, NotSignedIn, Unavailable
from admitone.kernel.http.operations import OK
from admitone.kernel.single_flight import SingleFlight
from admitone.web import render
from admitone.web.backend import Refused, Ticket, TicketPage, ticket_page
from admitone.web.resources import Web
from admitone.web.visit import Visit, address, compress

TICKETS_A_PAGE: Final = 50
_SORTS: Final = ("newest", "date", "price", "-price")
_KEPT_PAGES_MAX: Final = 256
_QUERY_CHARACTERS_MAX: Final = 100


class Asked(NamedTuple):
    """Which tickets, in which order, from where on."""

    q: str
    sort: str
    cursor: str


class _Found(NamedTuple):
    content: bytes
    live_id: str


class _Rendered(NamedTuple):
    found: _Found
    html: bytes
    compressed: bytes


class Shelf:
    """The list of tickets that can be bought now.

    Its page is made anew only when the tickets changed: what it is made from is compared, not how old it is.
    """

    def __init__(self, web: Web) -> None:
        self._web = web
        self._find = SingleFlight(self._found)
        self._rendered: dict[tuple[Asked, bool], _Rendered] = {}
        self._read: dict[Asked, tuple[bytes, TicketPage]] = {}

    async def _found(self, asked: Asked) -> _Found:
        # The id is taken first: whatever happens from here on reaches the page live.
        live_id = self._web.hub.last_id
        query = {"limit": str(TICKETS_A_PAGE), **{name: value for name, value in asked._asdict().items() if value}}
        return _Found(await self._web.backend.tickets(query), live_id)

    async def show(self, visit: Visit) -> Response:
        """Show tickets that can be bought."""
        sort = visit.asked("sort", "newest")
        asked = Asked(
            visit.asked("q").strip()[:_QUERY_CHARACTERS_MAX],
            sort if sort in _SORTS else "newest",
            visit.asked("cursor"),
        )
        try:
            found = await self._find(asked)
        except Refused as refused:
            if not issubclass(refused.kind, Invalid) or not asked.cursor:
                raise
            found = await self._find(asked._replace(cursor=""))  # a cursor from long ago, or typed by hand
        # A page knows of its visitor whether they are signed in and, unless it is told, nothing else.
        looks = (asked, visit.viewer is not None)
        kept = self._rendered.get(looks)
        if kept is None or kept.found != found:
            html = self._html(visit, asked, found)
            if len(self._rendered) >= _KEPT_PAGES_MAX:
                self._rendered.clear()
            kept = self._rendered[looks] = _Rendered(found, html, compress(html))
        return visit.answer(kept.html, compressed=kept.compressed)

    def _html(self, visit: Visit, asked: Asked, found: _Found) -> bytes:
        listed = self._tickets(asked, found.content)
        next_query = {"q": asked.q, "sort": _unless_newest(asked.sort), "cursor": listed.cursor or ""}
        return visit.html(
            "list.html",
            f"Tickets for “{asked.q}”" if asked.q else "Tickets",
            live_id=found.live_id,
            q=asked.q,
            sort=asked.sort,
            cards=render.cards(listed.tickets),
            news=_count(listed, asked),
            list_url=_list_url,
            next_url=address("/", **next_query) if listed.cursor else None,
            first_url=_list_url(asked.q, asked.sort) if asked.cursor else None,
        )

    def _tickets(self, asked: Asked, content: bytes) -> TicketPage:
        kept = self._read.get(asked)
        if kept is not None and kept[0] == content:
            return kept[1]
        listed = ticket_page(content)
        if len(self._read) >= _KEPT_PAGES_MAX:
            self._read.clear()
        self._read[asked] = (content, listed)
        return listed


def _unless_newest(sort: str) -> str:
    return "" if sort == "newest" else sort


def _list_url(q: str, sort: str) -> str:
    return address("/", q=q, sort=_unless_newest(sort))


def _count(listed: TicketPage, asked: Asked) -> str:
    count = len(listed.tickets)
    if not count:
        return ""
    if listed.cursor is not None or asked.cursor:
        return f"{count} tickets on this page"
    return "1 ticket" if count == 1 else f"{count} tickets"


async def ticket(visit: Visit) -> Response:
    """Show one ticket, and what the visitor can do about it."""
    return await ticket_page_of(visit, visit.id)


async def ticket_page_of(visit: Visit, ticket_id: str, *, was: Decimal | None = None, status: int = OK) -> Response:
    """Return a ticket's page; `was` is the price the visitor saw, when it is no longer the price."""
    live_id = visit.web.hub.last_id
    found, _ = await visit.backend.ticket(ticket_id)
    return visit.page(
        "ticket.html",
        found.title,
        status=status,
        live_id=live_id,
        ticket=found,
        standing=await _standing(visit, found),
        was=was,
        key=ids.new_token(16),
    )


async def _standing(visit: Visit, found: Ticket) -> str:
    """Return what the ticket is to the visitor: buyable, own, held, bought, reserved or sold."""
    if visit.viewer is not None and visit.viewer.id == found.user_id:
        return "own"
    if found.status == "available":
        return "buyable"
    if visit.viewer is not None and found.order_id is not None and await _is_own_order(visit, str(found.order_id)):
        return "held" if found.status == "reserved" else "bought"
    return found.status


async def _is_own_order(visit: Visit, order_id: str) -> bool:
    try:
        await visit.backend.order(visit.caller, order_id)
    except Refused as refused:
        # Whoever cannot tell shows what everybody may see.
        if issubclass(refused.kind, (Forbidden, NotFound, NotSignedIn, Unavailable)):
            return False
        raise
    return True
