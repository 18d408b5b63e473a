"""Turning what is known into HTML: templates are compiled once, cards are rendered once per version of a ticket."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from admitone.web import assets, words
from admitone.web.backend import Ticket

_CARDS_MAX: Final = 20_000


def _time_tag(instant: datetime, text: str, kind: str) -> Markup:
    """Return a `time` element; where scripts run, the text is put into the reader's own zone."""
    return Markup('<time datetime="{}" data-time="{}">{}</time>').format(instant.isoformat(), kind, text)


def _when(instant: datetime) -> Markup:
    return _time_tag(instant, words.day_and_time(instant), "when")


def _clock_time(instant: datetime) -> Markup:
    return _time_tag(instant, words.clock_time(instant), "clock")


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
        "money": words.money,
        "when": _when,
        "moment": _when,
        "clock": words.clock,
        "clock_time": _clock_time,
        "minutes": words.minutes,
        "number": words.number,
        "stub_word": words.stub_word,
        "listing_word": words.listing_word,
        "state_class": words.state_class,
    }
    environment.globals |= {"static": assets.address}
    return environment


_ENVIRONMENT: Final = _environment()
_CARD: Final = _ENVIRONMENT.get_template("_card.html")
_cards: dict[tuple[UUID, int], str] = {}


def page(template: str, *, path: str, signed_in: bool, live_id: str, title: str, **context: Any) -> str:
    """Return a whole page. `path` marks the present place in the menu, which depends on `signed_in`."""

    def here(place: str) -> Markup:
        return Markup(' aria-current="page"') if path == place else Markup()

    return _ENVIRONMENT.get_template(template).render(
        title=title, signed_in=signed_in, live_id=live_id, here=here, **context
    )


def cards(tickets: Iterable[Ticket]) -> Markup:
    """Return the cards of a list; a version of a ticket looks the same for everyone, so it is rendered once."""
    rendered = []
    for ticket in tickets:
        key = (ticket.id, ticket.version)
        card = _cards.get(key)
        if card is None:
            if len(_cards) >= _CARDS_MAX:
                _cards.clear()
            card = _CARD.render(ticket=ticket, price=words.money(ticket.price, ticket.currency))
            _cards[key] = card
        rendered.append(card)
    return Markup("\n".join(rendered))  # noqa: S704 – each card was escaped when it was rendered
