"""Buying: reserving a ticket, paying for it, and every way an order can end."""

from datetime import datetime
from decimal import Decimal
from typing import Final, Literal, NamedTuple
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
from admitone.web.api_client import OrderJson, PaymentListJson, ServiceRefused, TicketJson, parse_tickets
from admitone.web.forms import Form, idempotency_key, parse_amount
from admitone.web.listings import ticket_page
from admitone.web.page_request import (
    CONTENT_SECURITY_POLICY,
    STRIPE_CONTENT_SECURITY_POLICY,
    PageRequest,
    redirect,
    with_query,
)

_ORDERS_PER_PAGE: Final = 50
_RECENT_ORDERS: Final = 10
_SIMILAR_TICKETS: Final = 4
_NO_PAYMENTS: Final = PaymentListJson([], 0)
_UNKNOWN_SELLER: Final = UUID(int=0)

# What an order's page shows. The buyer can pay in `hold`, `declined`, `unreachable` and `confirm`; `checking` and
# `confirming` wait for an outcome; `yours` and `ended` are final.
OrderPageState = Literal["hold", "declined", "unreachable", "confirm", "checking", "confirming", "yours", "ended"]

_TITLES: Final[dict[OrderPageState, str]] = {
    "hold": "Pay",
    "confirm": "Pay",
    "declined": "Error: Pay",
    "unreachable": "Error: Pay",
    "checking": "Confirming",
    "confirming": "Confirming",
    "yours": "It is yours",
    "ended": "Order ended",
}


class SandboxCard(NamedTuple):
    """A test card, offered as a button."""

    token: str
    name: str
    last_digits: str
    effect: str


# Source: Stripe documentation, "Testing".
SANDBOX_CARDS: Final = (
    SandboxCard("pm_card_visa", "A card that works", "4242", "The payment goes through at once."),
    SandboxCard("pm_card_chargeDeclined", "A card that is declined", "0002", "The bank refuses; you can try another."),
    SandboxCard(
        "pm_card_authenticationRequired", "A card that asks back", "3184", "The bank wants you to confirm first."
    ),
)


class EndedOrderText(NamedTuple):
    """Why an order ended without a purchase, in words."""

    heading: str
    text: str


_ENDED_TEXTS: Final = {
    "expired": EndedOrderText("Time ran out", "The ticket was not paid in time."),
    "cancelled_by_buyer": EndedOrderText("You cancelled", "The ticket is no longer held for you."),
    "ticket_changed": EndedOrderText(
        "The ticket changed", "The seller changed it just as you reserved it, so the order was taken back."
    ),
    "payment_failed": EndedOrderText(
        "The payment did not go through", "The card was refused, so the ticket is no longer held for you."
    ),
}


# Reserving


async def reserve_ticket(request: PageRequest) -> Response:
    """Reserve a ticket at the price the user saw."""
    user = request.user
    fields = await request.form()
    seen_price = parse_amount(fields.get("price", ""))
    ticket, _ = await request.api.ticket(request.id)
    if ticket.user_id == user.id:
        return await ticket_page(request, request.id, status=status_of(Conflict))
    if ticket.status == "available" and seen_price is not None and seen_price != ticket.price:
        return await ticket_page(request, request.id, seen_price=seen_price, status=status_of(Conflict))
    try:
        order = await request.api.create_order(request.forwarded, request.id, idempotency_key(fields))
    except ServiceRefused as refused:
        if issubclass(refused.kind, NotFound):
            # The ticket was listed a moment ago, and its event has not reached orders yet.
            raise ServiceRefused(Unavailable, [], None) from None
        if not issubclass(refused.kind, (Invalid, Conflict)):
            raise
        return await _reserved_by_another(request, ticket)
    was = str(seen_price) if seen_price is not None and seen_price != order.ticket.price else ""
    return redirect(with_query(f"/orders/{order.id}", was=was))


async def _reserved_by_another(request: PageRequest, ticket: TicketJson) -> Response:
    """Show that another buyer was faster, or the user's own order of this ticket if there is one."""
    recent = await request.api.orders(request.forwarded, {"limit": str(_RECENT_ORDERS)})
    for order in recent.orders:
        if order.ticket.id == ticket.id and order.status != "cancelled":
            return redirect(f"/orders/{order.id}")
    heading, similar = await _similar_tickets(request, ticket)
    return request.page(
        "raced.html",
        "Someone was faster",
        status=status_of(Conflict),
        ticket=ticket,
        cards=render.cards(similar),
        similar_heading=heading,
    )


async def _similar_tickets(request: PageRequest, ticket: TicketJson) -> tuple[str, list[TicketJson]]:
    """Return a heading and tickets with a similar title, or else the newest tickets."""
    words = sorted(ticket.title.split(), key=len, reverse=True)
    for heading, q in (
        ("Similar tickets", ticket.title),
        ("Similar tickets", words[0] if words else ""),
        ("Other tickets", ""),
    ):
        query = {"limit": str(_SIMILAR_TICKETS + 1), **({"q": q} if q else {})}
        try:
            found = parse_tickets(await request.api.tickets(query)).tickets
        except ServiceRefused:
            return "", []  # the page is complete without them
        if others := [each for each in found if each.id != ticket.id][:_SIMILAR_TICKETS]:
            return heading, others
    return "", []


# One order


async def show_order(request: PageRequest) -> Response:
    if request.query("payment_intent"):
        # The user comes back from the bank, with parameters in the URL that should not stay in the history.
        return redirect(with_query(f"/orders/{request.id}", back="bank"))
    return await _order_page(request)


async def _order_page(request: PageRequest, *, unsent_key: str = "") -> Response:
    """Return an order's page; `unsent_key` is the idempotency key of a payment that could not be sent."""
    live_id = request.resources.hub.last_id
    order = await request.api.order(request.forwarded, request.id)
    payments = await _payments(request, order)
    state = _state(order, payments)
    if unsent_key and state == "hold":
        state = "unreachable"
    if state == "confirm" and request.query("back"):
        state = "checking"  # the buyer has confirmed, and the bank has not reported it yet
    ended = _ended_text(order, payments) if state == "ended" else None
    ticket = await _ticket_now(request, order) if ended else _as_ordered(order)
    stripe_key = request.resources.stripe_publishable_key
    return request.page(
        "order.html",
        f"{_TITLES[state]}: {order.ticket.title}",
        status=status_of(Unavailable) if state == "unreachable" else OK,
        content_security_policy=STRIPE_CONTENT_SECURITY_POLICY if stripe_key else CONTENT_SECURITY_POLICY,
        live_id=live_id,
        order=order,
        ticket=ticket,
        state=state,
        ended=ended,
        charged_text=_charged_text(payments),
        ticket_on_sale=ticket if ended and ticket.status == "available" else None,
        left_ms=_milliseconds(order.now, order.expires_at),
        hold_ms=max(1, _milliseconds(order.created_at, order.expires_at)),
        form=_declined_form(payments) if state == "declined" else Form(),
        seen_price=parse_amount(request.query("was")),
        # The payment may have arrived after all: with the same key, posting it again cannot charge twice.
        key=unsent_key or ids.new_token(16),
        cards=SANDBOX_CARDS,
        stripe_key=stripe_key,
        action=payments.last.action if payments.last else None,
    )


def _state(order: OrderJson, payments: PaymentListJson) -> OrderPageState:
    if order.status == "complete":
        return "yours"
    if order.status == "awaiting:payment":
        return "confirming"
    if order.status == "cancelled":
        return "ended"
    last = payments.last
    if last is not None and last.is_unclear:
        return "checking"
    if order.expires_at <= order.now or _is_out_of_attempts(payments):
        return "ended"  # the order is about to be cancelled
    if last is not None and last.status == "requires_action":
        return "confirm"
    return "declined" if last is not None and last.status == "failed" else "hold"


def _is_out_of_attempts(payments: PaymentListJson) -> bool:
    return payments.last is not None and payments.last.status == "failed" and payments.attempts_left == 0


def _ended_text(order: OrderJson, payments: PaymentListJson) -> EndedOrderText:
    """Return why an order ended; an order that is about to be cancelled has no reason of its own yet."""
    reason = "payment_failed" if _is_out_of_attempts(payments) else "expired"
    return _ENDED_TEXTS[order.cancel_reason or reason]


def _charged_text(payments: PaymentListJson) -> str:
    """Return a sentence about the money of an order that ended."""
    statuses = {each.status for each in payments.payments}
    if "refunded" in statuses:
        return "What was charged was given back in full."
    if statuses & {"pending", "requires_action", "authorized", "captured"}:
        return "You are not charged: what your bank set aside for it goes back by itself."
    return "Nothing was charged."


def _milliseconds(start: datetime, end: datetime) -> int:
    return max(0, round((end - start).total_seconds() * 1000))


def _declined_form(payments: PaymentListJson) -> Form:
    assert payments.last
    reason = (payments.last.reason or "The card was refused").rstrip(".")
    left = payments.attempts_left
    tries = "You can try once more." if left == 1 else f"You can try {left} more times, with this card or another."
    error = FieldError(f"{reason}. Nothing was charged. {tries}")
    return Form(errors=[error], heading="The payment did not go through")


async def _payments(request: PageRequest, order: OrderJson) -> PaymentListJson:
    """Return the attempts to pay an order that is not paid; none if payments is unreachable."""
    if order.status not in {"created", "cancelled"}:
        return _NO_PAYMENTS
    try:
        return await request.api.payments(request.forwarded, order.id)
    except ServiceRefused as refused:
        # NotFound: the order's event has not reached payments yet.
        if issubclass(refused.kind, (NotFound, Unavailable)):
            return _NO_PAYMENTS
        raise


async def _ticket_now(request: PageRequest, order: OrderJson) -> TicketJson:
    """Return an order's ticket as it is now, or as it was ordered if tickets is unreachable."""
    try:
        ticket, _ = await request.api.ticket(order.ticket.id)
    except ServiceRefused as refused:
        if not issubclass(refused.kind, Unavailable):
            raise
        return _as_ordered(order)
    return ticket


def _as_ordered(order: OrderJson) -> TicketJson:
    """Return the ticket as the order keeps it, which is what the buyer pays for."""
    return TicketJson(
        **msgspec.structs.asdict(order.ticket),
        user_id=_UNKNOWN_SELLER,
        status="sold" if order.status == "complete" else "reserved",
        created_at=order.created_at,
    )


async def pay(request: PageRequest) -> Response:
    """Pay an order. The order's page shows the outcome, also when it is loaded again."""
    fields = await request.form()
    key = idempotency_key(fields)
    try:
        await request.api.pay(request.forwarded, request.id, fields.get("token", ""), key)
    except ServiceRefused as refused:
        if issubclass(refused.kind, Unavailable):
            return await _order_page(request, unsent_key=key)
        # The bank declined, or the order cannot be paid any more: the order's page says which.
        if not issubclass(refused.kind, (PaymentRequired, Invalid, Conflict, IdempotencyKeyReused)):
            raise
    return redirect(f"/orders/{request.id}")


async def cancel_order(request: PageRequest) -> Response:
    try:
        await request.api.cancel_order(request.forwarded, request.id)
    except ServiceRefused as refused:
        # Invalid or Conflict: it was paid or it ended meanwhile, and its page says so.
        if not issubclass(refused.kind, (Invalid, Conflict)):
            raise
    return redirect(f"/orders/{request.id}")


# The user's orders


class _OrderRow(NamedTuple):
    """An order in the list: its status in words, and the one thing to do next."""

    id: UUID
    title: str
    price: Decimal
    currency: str
    created_at: datetime
    status_class: str
    status: str
    next_url: str
    next_text: str


async def show_orders_of_user(request: PageRequest) -> Response:
    """Show the user's orders, newest first."""
    live_id = request.resources.hub.last_id
    query = {"limit": str(_ORDERS_PER_PAGE)}
    if cursor := request.query("cursor"):
        query["cursor"] = cursor
    found = await request.api.orders(request.forwarded, query)
    return request.page(
        "orders.html",
        "My orders",
        live_id=live_id,
        orders=[_order_row(each) for each in found.orders],
        next_url=with_query("/orders", cursor=found.cursor) if found.cursor else None,
    )


def _order_row(order: OrderJson) -> _OrderRow:
    url = f"/orders/{order.id}"
    match _state(order, _NO_PAYMENTS):
        case "yours":
            status_class, status, next_text = "done", "Yours", "See the ticket"
        case "confirming":
            status_class, status, next_text = "held", "Confirming your payment", "See how far it is"
        case "ended":
            status_class, status, next_text = "over", _ended_text(order, _NO_PAYMENTS).heading, "Look at the ticket"
            url = f"/tickets/{order.ticket.id}"
        case _:
            status_class, status, next_text = "live", "Held for you, not paid yet", "Pay now"
    return _OrderRow(
        id=order.id,
        title=order.ticket.title,
        price=order.ticket.price,
        currency=order.ticket.currency,
        created_at=order.created_at,
        status_class=status_class,
        status=status,
        next_url=url,
        next_text=next_text,
    )
