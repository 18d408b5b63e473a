"""Rendering pages: templates are compiled once, and the card of a ticket is rendered once per version of the ticket."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from admitone.web import assets, formatting
from admitone.web.api_client import TicketJson

_CARDS_MAX: Final = 20_000


def _time_element(instant: datetime, text: str, format_name: str) -> Markup:
    """Return a `time` element; `format_name` names the format in which times.js shows it in the reader's zone."""
    return Markup('<time datetime="{}" data-time="{}">{}</time>').format(instant.isoformat(), format_name, text)


def _date_and_time(instant: datetime) -> Markup:
    return _time_element(instant, formatting.date_and_time(instant), "date-and-time")


def _time_of_day(instant: datetime) -> Markup:
    return _time_element(instant, formatting.time_of_day(instant), "time-of-day")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("admitone.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    environment.filters |= {
        "money": formatting.money,
        "date_and_time": _date_and_time,
        "time_of_day": _time_of_day,
        "countdown": formatting.countdown,
        "duration": formatting.duration,
        "ticket_number": formatting.ticket_number,
        "stub_word": formatting.stub_word,
        "listing_word": formatting.listing_word,
        "status_class": formatting.status_class,
    }
    environment.globals |= {"static": assets.url}
    return environment


_ENVIRONMENT: Final = _environment()
_CARD: Final = _ENVIRONMENT.get_template("_card.html")
_cards: dict[tuple[UUID, int], str] = {}


def page(template: str, *, path: str, signed_in: bool, live_id: str, title: str, **context: Any) -> str:
    """Return a whole page; the menu marks the entry for `path` as the current one."""

    def aria_current(menu_path: str) -> Markup:
        return Markup(' aria-current="page"') if path == menu_path else Markup()

    return _ENVIRONMENT.get_template(template).render(
        title=title, signed_in=signed_in, live_id=live_id, aria_current=aria_current, **context
    )


def cards(tickets: Iterable[TicketJson]) -> Markup:
    """Return the cards of some tickets; a card depends only on the ticket's version, so it is cached."""
    rendered = []
    for ticket in tickets:
        key = (ticket.id, ticket.version)
        card = _cards.get(key)
        if card is None:
            if len(_cards) >= _CARDS_MAX:
                _cards.clear()
            card = _CARD.render(ticket=ticket, price=formatting.money(ticket.price, ticket.currency))
            _cards[key] = card
        rendered.append(card)
    return Markup("\n".join(rendered))  # noqa: S704 – each card was escaped when it was rendered
