"""What clients of orders send and receive."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import msgspec

from admitone.events import CancelReason, OrderStatus
from admitone.kernel.http import parsing
from admitone.kernel.http.parsing import Rule, json_time
from admitone.kernel.money import decimal_of
from admitone.orders.model import Order


class NewOrder(msgspec.Struct, rename="camel"):
    """What a buyer sends to reserve a ticket."""

    ticket_id: Annotated[UUID, Rule("TicketId must be provided", parsing.uuid)]


class OrdersQuery(msgspec.Struct):
    """Which of one's orders to list."""

    limit: Annotated[
        int,
        msgspec.Meta(ge=1, le=100, description="How many at most."),
        Rule("Limit must be a whole number from 1 to 100", parsing.whole_number(1, 100)),
    ] = 50
    cursor: Annotated[
        UUID | None,
        msgspec.Meta(description="The `cursor` of the page before."),
        Rule("Cursor is not valid", parsing.uuid),
    ] = None


class HeldTicketView(msgspec.Struct, rename="camel", omit_defaults=True):
    """The ticket as it was when it was reserved."""

    id: UUID
    title: str
    price: Decimal
    currency: str
    version: int
    face_value: Decimal | None = None
    event_date: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    venue: str | None = None
    section: str | None = None
    row: str | None = None
    seat: str | None = None
    note: str | None = None


class OrderView(msgspec.Struct, rename="camel", omit_defaults=True):
    """An order as its buyer sees it; `now` is the server's clock, to count down by.

    For a new order the database writes this JSON (`shown_order` in the migrations), equal to what `view` returns.
    """

    id: UUID
    user_id: UUID
    status: OrderStatus
    created_at: parsing.TimeText
    expires_at: parsing.TimeText
    now: parsing.TimeText
    version: int
    ticket: HeldTicketView
    cancel_reason: CancelReason | None = None


class OrdersView(msgspec.Struct):
    """A page of orders, newest first; `cursor` leads to the next page and is null on the last."""

    orders: list[OrderView]
    cursor: UUID | None


def view(order: Order, now: datetime) -> OrderView:
    """Return an order as its buyer sees it at `now`."""
    offer = order.offer
    return OrderView(
        id=order.id,
        user_id=order.buyer_id,
        status=order.status,
        created_at=json_time(order.created_at),
        expires_at=json_time(order.expires_at),
        now=json_time(now),
        version=order.version,
        ticket=HeldTicketView(
            id=order.ticket_id,
            title=offer.title,
            price=decimal_of(offer.price_cents),
            currency=offer.currency,
            version=order.ticket_version,
            face_value=None if offer.face_value_cents is None else decimal_of(offer.face_value_cents),
            event_date=offer.event_date,
            venue=offer.venue,
            section=offer.section,
            row=offer.row,
            seat=offer.seat,
            note=offer.note,
        ),
        cancel_reason=order.cancel_reason,
    )
