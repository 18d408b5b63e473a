"""Selling: listing a ticket, editing it while nobody is buying it, and the user's listings."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from starlette.responses import JSONResponse, Response

from admitone.kernel import clock, ids
from admitone.kernel.errors import FieldError, Forbidden, Invalid, NotFound, PreconditionFailed
from admitone.kernel.http.app import status_of
from admitone.kernel.http.operations import OK
from admitone.web import account
from admitone.web.api_client import ServiceRefused, TicketJson
from admitone.web.formatting import money
from admitone.web.forms import Form, NotAnAmount, idempotency_key, read_amount
from admitone.web.page_request import PageRequest, redirect, with_query

_OPTIONAL_TEXTS: Final = ("venue", "section", "row", "seat", "note")
_FIELDS: Final = ("title", "price", "faceValue", "eventDate", *_OPTIONAL_TEXTS)
# What is kept while a user whose session ended signs in again; none of it is secret.
_KEPT_FIELDS: Final = (*_FIELDS, "eventInstant", "etag")
_AMOUNTS: Final = {"price": "Price", "faceValue": "Face value"}
_LISTINGS_PER_PAGE: Final = 50


class TicketPreview(msgspec.Struct, frozen=True):
    """The ticket that a form describes so far."""

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


async def new_ticket_form(request: PageRequest) -> Response:
    return _new_ticket_page(request, Form(_FIELDS), {})


async def list_ticket(request: PageRequest) -> Response:
    fields = await request.form()
    currency = request.resources.policy.currency
    body = ticket_body(fields, currency)
    try:
        ticket = await request.api.create_ticket(request.forwarded, body, idempotency_key(fields))
    except ServiceRefused as refused:
        if not issubclass(refused.kind, Invalid):
            raise
        form = Form(_FIELDS, fields, _errors(refused, fields, currency))
        return _new_ticket_page(request, form, fields, status=status_of(refused.kind))
    return redirect(f"/tickets/{ticket.id}")


async def sign_in_and_restore_new_ticket(request: PageRequest) -> Response:
    """Sign in again, and show the form of a new ticket as it was filled in."""
    kept = kept_fields(await request.form())

    async def show_form(signed_in: PageRequest) -> Response:
        return _new_ticket_page(signed_in, Form(_FIELDS, kept), kept)

    return await account.sign_in_again(request, kept, show_form)


def kept_fields(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: fields[name] for name in _KEPT_FIELDS if name in fields}


def ticket_body(fields: Mapping[str, str], currency: str) -> dict[str, Any]:
    """Return the form's fields as the API's body; a price that is not an amount is left to the API to refuse."""
    body: dict[str, Any] = {"title": fields.get("title", ""), "price": _amount(fields, "price", currency)}
    if fields.get("faceValue", "").strip():
        body["faceValue"] = _amount(fields, "faceValue", currency)
    for name in _OPTIONAL_TEXTS:
        if text := " ".join(fields.get(name, "").split()):
            body[name] = text
    if event_date := _event_date(fields):
        body["eventDate"] = event_date
    return body


def _amount(fields: Mapping[str, str], name: str, currency: str) -> Decimal | str:
    typed = fields.get(name, "")
    try:
        return read_amount(typed, currency)
    except NotAnAmount:
        return typed


def _parsed_amount(fields: Mapping[str, str], name: str, currency: str) -> Decimal | None:
    amount = _amount(fields, name, currency)
    return amount if isinstance(amount, Decimal) and amount >= 0 else None


def _errors(refused: ServiceRefused, fields: Mapping[str, str], currency: str) -> list[FieldError]:
    """Return the service's errors; about a text that is not an amount, the form knows more."""
    errors = []
    for error in refused.errors:
        wrong = _wrong_amount(error.field, fields.get(error.field, ""), currency) if error.field in _AMOUNTS else None
        errors.append(FieldError(wrong or error.message, error.field))
    return errors


def _wrong_amount(field: str, typed: str, currency: str) -> str | None:
    """Return why a typed text is not an amount; None if it is one."""
    try:
        read_amount(typed, currency)
    except NotAnAmount as reason:
        return f"{_AMOUNTS[field]} {reason}"
    return None


async def show_amount(request: PageRequest) -> Response:
    """Return how a text that is being typed into a field would be read, for the form's script.

    So there is one reading of amounts, here. What else the API refuses, such as a price of 0, is said after submitting.
    """
    field, typed, currency = (request.query(each) for each in ("field", "typed", "currency"))
    if field not in _AMOUNTS:
        raise NotFound
    if (wrong := _wrong_amount(field, typed, currency)) is not None:
        return JSONResponse({"wrong": wrong})
    amount = read_amount(typed, currency)
    return JSONResponse({"amount": f"{amount:.2f}", "text": money(amount, currency)} if amount >= 0 else {})


def _event_date(fields: Mapping[str, str]) -> str:
    """Return the event's date as the API expects it, or an empty string.

    A script fills the field `eventInstant` from the browser's time zone; without it, the typed date is in UTC.
    """
    typed = fields.get("eventDate", "").strip()
    if not typed:
        return ""
    if instant := fields.get("eventInstant", "").strip():
        return instant
    return f"{typed}:00Z" if typed.count(":") == 1 else f"{typed}Z"


def _parse_event_date(fields: Mapping[str, str]) -> datetime | None:
    try:
        return datetime.fromisoformat(_event_date(fields)).astimezone(UTC)
    except (ValueError, OverflowError):  # converted to UTC, the first and the last representable day overflow
        return None


def _new_ticket_page(request: PageRequest, form: Form, fields: Mapping[str, str], *, status: int = OK) -> Response:
    currency = request.resources.policy.currency
    return request.page(
        "ticket_form.html",
        "Error: Sell a ticket" if form.errors else "Sell a ticket",
        status=status,
        heading="Sell a ticket",
        editing=False,
        locked=None,
        action="/tickets/new",
        key=ids.new_token(16),
        form=form,
        currency=currency,
        event_date=_parse_event_date(fields),
        preview=ticket_preview(fields, currency),
    )


def ticket_preview(fields: Mapping[str, str], currency: str) -> TicketPreview:
    texts: dict[str, Any] = {name: fields.get(name, "").strip() for name in _OPTIONAL_TEXTS}
    return TicketPreview(
        title=fields.get("title", "").strip() or "Title",
        currency=currency,
        price=_parsed_amount(fields, "price", currency),
        face_value=_parsed_amount(fields, "faceValue", currency),
        event_date=_parse_event_date(fields),
        **texts,
    )


async def edit_ticket_form(request: PageRequest) -> Response:
    """Show the form to edit a listing, or why it cannot be edited now."""
    ticket, etag = await _ticket_of_user(request)
    return _edit_page(request, ticket, etag, Form(_FIELDS, _form_values(ticket)))


async def save_ticket(request: PageRequest) -> Response:
    """Edit a listing, unless somebody is buying it or it changed since the form was shown."""
    fields = await request.form()
    currency = (await _ticket_of_user(request))[0].currency
    body = ticket_body(fields, currency)
    try:
        await request.api.edit_ticket(request.forwarded, request.id, body, fields.get("etag", ""))
    except ServiceRefused as refused:
        if not issubclass(refused.kind, (Invalid, PreconditionFailed)):
            raise
        ticket, etag = await _ticket_of_user(request)
        errors = _errors(refused, fields, currency)
        if issubclass(refused.kind, PreconditionFailed):
            errors = [FieldError("The ticket changed since you opened this page. Look it over and save again.")]
        form = Form(_FIELDS, fields, errors)
        return _edit_page(request, ticket, etag, form, fields, status=status_of(refused.kind))
    return redirect(f"/tickets/{request.id}")


async def sign_in_and_restore_edit(request: PageRequest) -> Response:
    """Sign in again, and show the form of an edit as it was filled in; edits made meanwhile still refuse it."""
    kept = kept_fields(await request.form())

    async def show_form(signed_in: PageRequest) -> Response:
        ticket, _ = await _ticket_of_user(signed_in)
        return _edit_page(signed_in, ticket, kept.get("etag", ""), Form(_FIELDS, kept), kept)

    return await account.sign_in_again(request, kept, show_form)


async def _ticket_of_user(request: PageRequest) -> tuple[TicketJson, str]:
    user = request.user
    ticket, etag = await request.api.ticket(request.id)
    if ticket.user_id != user.id:
        raise Forbidden
    return ticket, etag


def _form_values(ticket: TicketJson) -> dict[str, str]:
    texts = {name: getattr(ticket, name) or "" for name in _OPTIONAL_TEXTS}
    # With its seconds, if it has any: without scripts, the form sends back what it shows.
    date = ticket.event_date.astimezone(UTC).replace(tzinfo=None) if ticket.event_date else None
    typed_date = date.isoformat(timespec="seconds" if date.second else "minutes") if date else ""
    face_value = "" if ticket.face_value is None else str(ticket.face_value)
    return {
        "title": ticket.title,
        "price": str(ticket.price),
        "faceValue": face_value,
        "eventDate": typed_date,
        **texts,
    }


def _edit_page(
    request: PageRequest,
    ticket: TicketJson,
    etag: str,
    form: Form,
    fields: Mapping[str, str] | None = None,
    *,
    status: int = OK,
) -> Response:
    held_until = request.resources.hub.held_until(ticket.id)
    return request.page(
        "ticket_form.html",
        "Error: Edit the ticket" if form.errors else "Edit the ticket",
        status=status,
        heading="Edit the ticket",
        editing=True,
        action=f"/tickets/{ticket.id}/edit",
        key=None,
        ticket_id=ticket.id,
        version=ticket.version,
        etag=etag,
        locked=None if ticket.status == "available" else ticket.status,
        left_seconds=max(1.0, (held_until - clock.now()).total_seconds()) if held_until else None,
        form=form,
        currency=ticket.currency,
        event_date=ticket.event_date if fields is None else _parse_event_date(fields),
        preview=ticket if fields is None else ticket_preview(fields, ticket.currency),
    )


async def show_listings_of_user(request: PageRequest) -> Response:
    """Show the user's listings in every status, newest first."""
    live_id = request.resources.hub.last_id
    query = {"limit": str(_LISTINGS_PER_PAGE)}
    if cursor := request.query("cursor"):
        query["cursor"] = cursor
    listings = await request.api.tickets_of_user(request.forwarded, query)
    return request.page(
        "sell.html",
        "My listings",
        live_id=live_id,
        tickets=listings.tickets,
        next_url=with_query("/sell", cursor=listings.cursor) if listings.cursor else None,
    )
