"""Selling: listing a ticket, changing it while nobody is buying it, and seeing how one's listings do."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from starlette.responses import Response

from admitone.kernel import clock, ids
from admitone.kernel.errors import FieldError, Forbidden, Invalid, PreconditionFailed
from admitone.kernel.http.app import status_of
from admitone.kernel.http.operations import OK
from admitone.web.backend import Refused, Ticket
from admitone.web.forms import Form, amount_of, key_of
from admitone.web.visit import Visit, address, go

_TEXTS: Final = ("title", "venue", "section", "row", "seat", "note")
_FIELDS: Final = ("title", "price", "faceValue", "eventDate", "venue", "section", "row", "seat", "note")
_LISTINGS_A_PAGE: Final = 50


class _Preview(msgspec.Struct, frozen=True):
    """A ticket that is not one yet: what the form says so far."""

    title: str
    currency: str
    price: Decimal | None = None
    face_value: Decimal | None = None
    id: None = None
    status: str = "available"
    event_date: datetime | None = None
    venue: str = ""
    section: str = ""
    row: str = ""
    seat: str = ""
    note: str = ""


async def new_ticket(visit: Visit) -> Response:
    """Show the form for a new listing."""
    return _form_page(visit, Form(_FIELDS), {})


async def listed(visit: Visit) -> Response:
    """List a ticket."""
    fields = await visit.posted()
    try:
        ticket = await visit.backend.create_ticket(visit.caller, _listing(fields), key_of(fields))
    except Refused as refused:
        if not issubclass(refused.kind, Invalid):
            raise
        return _form_page(visit, Form(_FIELDS, fields, refused.errors), fields, status=status_of(refused.kind))
    return go(f"/tickets/{ticket.id}")


def _listing(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the form's fields as the API reads them; an amount that is none is left for the API to refuse."""
    body: dict[str, Any] = {"title": fields.get("title", ""), "price": _amount(fields, "price")}
    if fields.get("faceValue", "").strip():
        body["faceValue"] = _amount(fields, "faceValue")
    for name in _TEXTS[1:]:
        if text := " ".join(fields.get(name, "").split()):
            body[name] = text
    if moment := _moment(fields):
        body["eventDate"] = moment
    return body


def _amount(fields: Mapping[str, str], name: str) -> Decimal | str:
    typed = fields.get(name, "")
    amount = amount_of(typed)
    return typed if amount is None else amount


def _moment(fields: Mapping[str, str]) -> str:
    """Return when the event is. The browser's own zone comes in a field that a script fills; without it, it is UTC."""
    typed = fields.get("eventDate", "").strip()
    if not typed:
        return ""
    if instant := fields.get("eventInstant", "").strip():
        return instant
    return f"{typed}:00Z" if typed.count(":") == 1 else f"{typed}Z"


def _read_moment(fields: Mapping[str, str]) -> datetime | None:
    try:
        return datetime.fromisoformat(_moment(fields)).astimezone(UTC)
    except (ValueError, OverflowError):  # in another zone, the first and the last day are in no year
        return None


def _form_page(visit: Visit, form: Form, fields: Mapping[str, str], *, status: int = OK) -> Response:
    return visit.page(
        "ticket_form.html",
        "Error: Sell a ticket" if form.errors else "Sell a ticket",
        status=status,
        heading="Sell a ticket",
        editing=False,
        locked=None,
        action="/tickets/new",
        key=ids.new_token(16),
        form=form,
        currency=visit.web.policy.currency,
        instant=_read_moment(fields),
        preview=_preview(fields, visit.web.policy.currency),
    )


def _preview(fields: Mapping[str, str], currency: str) -> _Preview:
    shown: dict[str, Any] = {name: fields.get(name, "").strip() for name in _TEXTS[1:]}
    return _Preview(
        title=fields.get("title", "").strip() or "Title",
        currency=currency,
        price=amount_of(fields.get("price", "")),
        face_value=amount_of(fields.get("faceValue", "")),
        event_date=_read_moment(fields),
        **shown,
    )


async def edit_ticket(visit: Visit) -> Response:
    """Show the form for changing a listing, or why it cannot be changed now."""
    ticket, tag = await _own_ticket(visit)
    return _edit_page(visit, ticket, tag, Form(_FIELDS, _typed(ticket)))


async def edited(visit: Visit) -> Response:
    """Change a listing, unless somebody is buying it or it changed since the form was shown."""
    fields = await visit.posted()
    try:
        await visit.backend.edit_ticket(visit.caller, visit.id, _listing(fields), fields.get("etag", ""))
    except Refused as refused:
        if not issubclass(refused.kind, (Invalid, PreconditionFailed)):
            raise
        ticket, tag = await _own_ticket(visit)
        errors = refused.errors
        if issubclass(refused.kind, PreconditionFailed):
            errors = [FieldError("The ticket changed since you opened this page. Look it over and save again.")]
        return _edit_page(visit, ticket, tag, Form(_FIELDS, fields, errors), fields, status=status_of(refused.kind))
    return go(f"/tickets/{visit.id}")


async def _own_ticket(visit: Visit) -> tuple[Ticket, str]:
    person = visit.person
    ticket, tag = await visit.backend.ticket(visit.id)
    if ticket.user_id != person.id:
        raise Forbidden
    return ticket, tag


def _typed(ticket: Ticket) -> dict[str, str]:
    """Return a ticket as the form's fields."""
    texts = {name: getattr(ticket, name) or "" for name in _TEXTS}
    date = ticket.event_date.astimezone(UTC).strftime("%Y-%m-%dT%H:%M") if ticket.event_date else ""
    face_value = "" if ticket.face_value is None else str(ticket.face_value)
    return {**texts, "price": str(ticket.price), "faceValue": face_value, "eventDate": date}


def _edit_page(
    visit: Visit,
    ticket: Ticket,
    tag: str,
    form: Form,
    fields: Mapping[str, str] | None = None,
    *,
    status: int = OK,
) -> Response:
    until = visit.web.hub.held_until(ticket.id)
    return visit.page(
        "ticket_form.html",
        "Error: Edit the ticket" if form.errors else "Edit the ticket",
        status=status,
        heading="Edit the ticket",
        editing=True,
        action=f"/tickets/{ticket.id}/edit",
        key=None,
        ticket_id=ticket.id,
        version=ticket.version,
        etag=tag,
        locked=None if ticket.status == "available" else ticket.status,
        left=max(1.0, (until - clock.now()).total_seconds()) if until else None,
        form=form,
        currency=ticket.currency,
        instant=ticket.event_date if fields is None else _read_moment(fields),
        preview=ticket if fields is None else _preview(fields, ticket.currency),
    )


async def own_listings(visit: Visit) -> Response:
    """Show what one has listed, in every state, newest first."""
    live_id = visit.web.hub.last_id
    query = {"limit": str(_LISTINGS_A_PAGE)}
    if cursor := visit.asked("cursor"):
        query["cursor"] = cursor
    listings = await visit.backend.own_tickets(visit.caller, query)
    return visit.page(
        "sell.html",
        "My listings",
        live_id=live_id,
        tickets=listings.tickets,
        next_url=address("/sell", cursor=listings.cursor) if listings.cursor else None,
    )
