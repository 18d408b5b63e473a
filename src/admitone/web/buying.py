"""Buying: from the click on Buy to "it is yours", with every way it can end otherwise."""

from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
from starlette.responses import Response

from admitone.kernel import ids
from admitone.kernel.errors import (
    Conflict,
    FieldError,
    IdempotencyKeyReused,
    Invalid,
    NotFound,
    PaymentRequired,
    Unavailable,
)
from admitone.kernel.http.app import status_of
from admitone.kernel.http.operations import OK
from admitone.web import render
from admitone.web.backend import Order, Payments, Refused, Ticket, ticket_page
from admitone.web.catalogue import ticket_page_of
from admitone.web.forms import Form, amount_of, key_of
from admitone.web.visit import OWN_POLICY, STRIPE_POLICY, Visit, address, go

_ORDERS_A_PAGE: Final = 50
_SIMILAR: Final = 4

_TITLES: Final = {
    "yours": "It is yours",
    "confirming": "Confirming",
    "checking": "Confirming",
    "declined": "Error: Pay",
    "unreachable": "Error: Pay",
    "ended": "Order ended",
}


class SandboxCard(NamedTuple):
    """A card of the sandbox, offered as a button."""

    token: str
    name: str
    ends: str
    does: str


# Source: Stripe documentation, "Testing".
SANDBOX_CARDS: Final = (
    SandboxCard("pm_card_visa", "A card that works", "4242", "The payment goes through at once."),
    SandboxCard("pm_card_chargeDeclined", "A card that is declined", "0002", "The bank refuses; you can try another."),
    SandboxCard(
        "pm_card_authenticationRequired", "A card that asks back", "3184", "The bank wants you to confirm first."
    ),
)


class Ending(NamedTuple):
    """How an order ended without a purchase, in words."""

    heading: str
    words: str


_ENDINGS: Final = {
    "expired": Ending("Time ran out", "The ticket was not paid in time."),
    "cancelled_by_buyer": Ending("You cancelled", "The ticket is no longer held for you."),
    "ticket_changed": Ending(
        "The ticket changed", "The seller changed it just as you reserved it, so the order was taken back."
    ),
    "payment_failed": Ending(
        "The payment did not go through", "The card was refused, so the ticket is no longer held for you."
    ),
}


# Reserving


async def bought(visit: Visit) -> Response:
    """Reserve a ticket for the visitor, at the price they saw."""
    person = visit.person
    fields = await visit.posted()
    seen = amount_of(fields.get("price", ""))
    ticket, _ = await visit.backend.ticket(visit.id)
    if ticket.user_id == person.id:
        return await ticket_page_of(visit, visit.id, status=status_of(Conflict))
    if ticket.status == "available" and seen is not None and seen != ticket.price:
        return await ticket_page_of(visit, visit.id, was=seen, status=status_of(Conflict))
    try:
        order = await visit.backend.create_order(visit.caller, visit.id, key_of(fields))
    except Refused as refused:
        if issubclass(refused.kind, NotFound):
            # Listed a moment ago, and orders has not heard of it yet.
            raise Refused(Unavailable, [], None) from None
        if not issubclass(refused.kind, (Invalid, Conflict)):
            raise
        return await _was_slower(visit, ticket)
    was = str(seen) if seen is not None and seen != order.ticket.price else ""
    return go(address(f"/orders/{order.id}", was=was))


async def _was_slower(visit: Visit, ticket: Ticket) -> Response:
    """Say that someone was faster, unless that someone is the visitor."""
    mine = await visit.backend.orders(visit.caller, {"limit": "10"})
    for order in mine.orders:
        if order.ticket.id == ticket.id and order.status != "cancelled":
            return go(f"/orders/{order.id}")
    heading, similar = await _similar(visit, ticket)
    return visit.page(
        "raced.html",
        "Someone was faster",
        status=status_of(Conflict),
        ticket=ticket,
        cards=render.cards(similar),
        similar_heading=heading,
    )


async def _similar(visit: Visit, ticket: Ticket) -> tuple[str, list[Ticket]]:
    """Return tickets like this one; the newest ones where none is."""
    words = sorted(ticket.title.split(), key=len, reverse=True)
    for heading, q in (
        ("Similar tickets", ticket.title),
        ("Similar tickets", words[0] if words else ""),
        ("Other tickets", ""),
    ):
        query = {"limit": str(_SIMILAR + 1), **({"q": q} if q else {})}
        try:
            found = ticket_page(await visit.backend.tickets(query)).tickets
        except Refused:
            return "", []  # what is missing here is a kindness, not the answer
        if others := [each for each in found if each.id != ticket.id][:_SIMILAR]:
            return heading, others
    return "", []


# One order


async def order(visit: Visit) -> Response:
    """Show an order as it is now."""
    if visit.asked("payment_intent"):
        # Back from the bank, with more in the address than anybody should keep.
        return go(address(f"/orders/{visit.id}", back="bank"))
    return await _order_page(visit)


async def _order_page(visit: Visit, *, unreachable_with: str = "") -> Response:
    """Return an order's page; `unreachable_with` is the key of a payment that could not even be asked for."""
    live_id = visit.web.hub.last_id
    found = await visit.backend.order(visit.caller, visit.id)
    payments = await _payments(visit, found)
    state = _state(found, payments)
    if unreachable_with and state == "hold":
        state = "unreachable"
    if state == "confirm" and visit.asked("back"):
        state = "checking"  # the buyer has answered the bank, and the bank has yet to answer us
    ended = _ending(found, payments) if state == "ended" else None
    ticket = await _ticket_of(visit, found)
    stripe_key = visit.web.stripe_publishable_key
    return visit.page(
        "order.html",
        f"{_TITLES.get(state, 'Pay')}: {found.ticket.title}",
        status=status_of(Unavailable) if state == "unreachable" else OK,
        policy=STRIPE_POLICY if stripe_key else OWN_POLICY,
        live_id=live_id,
        order=found,
        ticket=ticket if ended else _as_ordered(ticket, found),
        state=state,
        ended=ended,
        money=_money(payments),
        again=ticket if ended and ticket.status == "available" else None,
        left_ms=_milliseconds(found.now, found.expires_at),
        window_ms=max(1, _milliseconds(found.created_at, found.expires_at)),
        form=_refusal_form(payments) if state == "declined" else Form(),
        was=amount_of(visit.asked("was")),
        # A payment that may have got through after all must be sent again as the same one.
        key=unreachable_with or ids.new_token(16),
        cards=SANDBOX_CARDS,
        stripe_key=stripe_key,
        confirm=payments.last.action if payments.last else None,
    )


def _state(found: Order, payments: Payments) -> str:
    """Return what the page shows of an order.

    hold, declined and confirm can be paid; checking and confirming wait for an answer; yours and ended are final.
    """
    if found.status == "complete":
        return "yours"
    if found.status == "awaiting:payment":
        return "confirming"
    if found.status == "cancelled":
        return "ended"
    last = payments.last
    if last is not None and last.is_unclear:
        return "checking"
    if found.expires_at <= found.now or _is_refused_for_good(payments):
        return "ended"  # the cancellation is on its way
    if last is not None and last.status == "requires_action":
        return "confirm"
    return "declined" if last is not None and last.status == "failed" else "hold"


def _is_refused_for_good(payments: Payments) -> bool:
    return payments.last is not None and payments.last.status == "failed" and payments.attempts_left == 0


def _ending(found: Order, payments: Payments) -> Ending:
    """Return how an order ended, or is about to: its cancellation may still be on its way."""
    reason = "payment_failed" if _is_refused_for_good(payments) else "expired"
    return _ENDINGS[found.cancel_reason or reason]


def _money(payments: Payments) -> str:
    """Return what became of the money of an order that ended, in a sentence."""
    statuses = {each.status for each in payments.payments}
    if "refunded" in statuses:
        return "What was charged was given back in full."
    if statuses & {"pending", "requires_action", "authorized", "captured"}:
        return "You are not charged: what your bank set aside for it goes back by itself."
    return "Nothing was charged."


def _milliseconds(start: datetime, end: datetime) -> int:
    return max(0, round((end - start).total_seconds() * 1000))


def _refusal_form(payments: Payments) -> Form:
    assert payments.last
    said = (payments.last.reason or "The card was refused").rstrip(".")
    left = payments.attempts_left
    tries = "You can try once more." if left == 1 else f"You can try {left} more times, with this card or another."
    return Form(errors=[FieldError(f"{said}. Nothing was charged. {tries}")], heading="The payment did not go through")


_NO_PAYMENTS: Final = Payments([], 0)


async def _payments(visit: Visit, found: Order) -> Payments:
    """Return the attempts to pay an order that is not bought; none when payments does not answer."""
    if found.status not in {"created", "cancelled"}:
        return _NO_PAYMENTS
    try:
        return await visit.backend.payments(visit.caller, str(found.id))
    except Refused as refused:
        # Missing: payments has not heard of the order yet.
        if issubclass(refused.kind, (NotFound, Unavailable)):
            return _NO_PAYMENTS
        raise


async def _ticket_of(visit: Visit, found: Order) -> Ticket:
    """Return the ticket of an order with all that is printed on it; as much as the order knows when tickets is away."""
    try:
        ticket, _ = await visit.backend.ticket(str(found.ticket.id))
    except Refused as refused:
        if not issubclass(refused.kind, Unavailable):
            raise
        return Ticket(
            id=found.ticket.id,
            title=found.ticket.title,
            price=found.ticket.price,
            currency=found.ticket.currency,
            user_id=UUID(int=0),
            version=found.ticket.version,
            status="sold" if found.status == "complete" else "reserved",
            created_at=found.created_at,
        )
    return ticket


def _as_ordered(ticket: Ticket, found: Order) -> Ticket:
    """Return the ticket with the title and price of its order, which are what the buyer pays for."""
    return msgspec.structs.replace(ticket, title=found.ticket.title, price=found.ticket.price)


async def paid(visit: Visit) -> Response:
    """Pay an order. Whatever the outcome, the order's page tells it, and tells it again when it is loaded again."""
    fields = await visit.posted()
    key = key_of(fields)
    try:
        await visit.backend.pay(visit.caller, visit.id, fields.get("token", ""), key)
    except Refused as refused:
        if issubclass(refused.kind, Unavailable):
            return await _order_page(visit, unreachable_with=key)
        # Refused by the bank, or no longer payable: the order's own page says which.
        if not issubclass(refused.kind, (PaymentRequired, Invalid, Conflict, IdempotencyKeyReused)):
            raise
    return go(f"/orders/{visit.id}")


async def cancelled(visit: Visit) -> Response:
    """Cancel an order."""
    try:
        await visit.backend.cancel_order(visit.caller, visit.id)
    except Refused as refused:
        if not issubclass(refused.kind, (Invalid, Conflict)):
            raise  # otherwise it was paid meanwhile, and its page says so
    return go(f"/orders/{visit.id}")


# All of one's orders


class _Line(NamedTuple):
    """An order in the list: its state in words and the one thing to do next."""

    id: UUID
    title: str
    price: Decimal
    currency: str
    at: datetime
    state_class: str
    words: str
    next_url: str
    next_words: str


async def own_orders(visit: Visit) -> Response:
    """Show one's orders, newest first."""
    live_id = visit.web.hub.last_id
    query = {"limit": str(_ORDERS_A_PAGE)}
    if cursor := visit.asked("cursor"):
        query["cursor"] = cursor
    found = await visit.backend.orders(visit.caller, query)
    return visit.page(
        "orders.html",
        "My orders",
        live_id=live_id,
        orders=[_line(each) for each in found.orders],
        next_url=address("/orders", cursor=found.cursor) if found.cursor else None,
    )


def _line(found: Order) -> _Line:
    page = f"/orders/{found.id}"
    match _state(found, _NO_PAYMENTS):
        case "yours":
            state_class, words, next_url, next_words = "done", "Yours", page, "See the ticket"
        case "confirming":
            state_class, words, next_url, next_words = "held", "Confirming your payment", page, "See how far it is"
        case "ended":
            words = _ending(found, _NO_PAYMENTS).heading
            state_class, next_url, next_words = "over", f"/tickets/{found.ticket.id}", "Look at the ticket"
        case _:
            state_class, words, next_url, next_words = "live", "Held for you, not paid yet", page, "Pay now"
    return _Line(
        id=found.id,
        title=found.ticket.title,
        price=found.ticket.price,
        currency=found.ticket.currency,
        at=found.created_at,
        state_class=state_class,
        words=words,
        next_url=next_url,
        next_words=next_words,
    )
