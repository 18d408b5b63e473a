"""An order and what may become of it; the rules hold whoever asks and in whatever sequence events arrive."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import msgspec

from admitone.events import CancelReason, OrderAwaitingPayment, OrderCancelled, OrderCompleted, OrderStatus
from admitone.kernel.errors import Forbidden, Invalid, NotFound
from admitone.kernel.http import parsing
from admitone.kernel.http.parsing import Rule
from admitone.kernel.money import decimal_of


class TicketAlreadyReserved(Invalid):
    """Ticket is already reserved"""


class OwnTicket(Invalid):
    """You cannot buy your own ticket"""


class OrderComplete(Invalid):
    """A completed order cannot be cancelled"""


class PaymentUnderWay(Invalid):
    """The payment for this order is being confirmed; it cannot be cancelled now"""


class NotYourOrder(Forbidden):
    """This order belongs to somebody else"""


class NoSuchOrder(NotFound):
    """Not Found"""


class NoSuchTicket(NotFound):
    """Not Found"""


class NewOrder(msgspec.Struct, rename="camel"):
    """What a buyer sends to reserve a ticket."""

    ticket_id: Annotated[UUID, Rule("TicketId must be provided", parsing.uuid)]


class OrderPage(msgspec.Struct):
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


class TicketView(msgspec.Struct, rename="camel"):
    """The ticket as it was when it was reserved."""

    id: UUID
    title: str
    price: Decimal
    currency: str
    version: int


class OrderView(msgspec.Struct, rename="camel", omit_defaults=True):
    """An order as its buyer sees it; `now` is the server's clock, to count down by."""

    id: UUID
    user_id: UUID
    status: OrderStatus
    created_at: parsing.TimeText
    expires_at: parsing.TimeText
    now: parsing.TimeText
    version: int
    ticket: TicketView
    cancel_reason: CancelReason | None = None


class OrdersView(msgspec.Struct):
    """A page of orders, newest first; `cursor` leads to the next page and is null on the last."""

    orders: list[OrderView]
    cursor: UUID | None


def json_time(moment: datetime) -> str:
    """Return a time as the API writes it: ISO 8601, UTC, milliseconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class Order(msgspec.Struct, frozen=True):
    """A buyer's hold on a ticket, and later their title to it.

    `created` may be paid, cancelled or expire; `awaiting:payment` waits for money that is already authorised;
    `complete` and `cancelled` are final.
    """

    id: UUID
    version: int
    status: OrderStatus
    user_id: UUID
    ticket_id: UUID
    ticket_version: int
    title: str
    price_cents: int
    currency: str
    created_at: datetime
    expires_at: datetime
    payment_id: UUID | None = None
    cancel_reason: CancelReason | None = None

    def seen_by(self, person: UUID) -> "Order":
        """Return the order to its owner; raises NotYourOrder for anybody else."""
        if self.user_id != person:
            raise NotYourOrder
        return self

    def is_overdue(self, now: datetime) -> bool:
        return self.status == "created" and self.expires_at <= now

    def cancelled_by_buyer(self) -> "Order":
        """Return the order cancelled at its buyer's wish; a cancelled one stays as it is."""
        if self.status == "complete":
            raise OrderComplete
        if self.status == "awaiting:payment":
            raise PaymentUnderWay
        return self if self.status == "cancelled" else self.cancelled("cancelled_by_buyer")

    def cancelled(self, reason: CancelReason) -> "Order":
        """Return the order cancelled. Only a payment that failed for good ends one that awaits its payment."""
        assert self.status == "created" or (self.status == "awaiting:payment" and reason == "payment_failed")
        return msgspec.structs.replace(self, status="cancelled", version=self.version + 1, cancel_reason=reason)

    def accepts(self, user_id: UUID, amount_cents: int, currency: str) -> bool:
        """Whether a payment of this amount by this buyer may still be taken for the order."""
        return self.status == "created" and (user_id, amount_cents, currency) == (
            self.user_id,
            self.price_cents,
            self.currency,
        )

    def awaiting_payment(self, payment_id: UUID) -> "Order":
        assert self.status == "created"
        return msgspec.structs.replace(self, status="awaiting:payment", version=self.version + 1, payment_id=payment_id)

    def completed(self) -> "Order":
        assert self.status == "awaiting:payment"
        return msgspec.structs.replace(self, status="complete", version=self.version + 1)

    def fact(self) -> OrderCancelled | OrderAwaitingPayment | OrderCompleted:
        """Return the event that tells the state the order has just reached."""
        if self.status == "cancelled":
            assert self.cancel_reason is not None
            return OrderCancelled(
                id=self.id,
                version=self.version,
                user_id=self.user_id,
                ticket_id=self.ticket_id,
                reason=self.cancel_reason,
            )
        assert self.payment_id is not None
        event = OrderAwaitingPayment if self.status == "awaiting:payment" else OrderCompleted
        return event(
            id=self.id,
            version=self.version,
            user_id=self.user_id,
            ticket_id=self.ticket_id,
            payment_id=self.payment_id,
        )

    def view(self, now: datetime) -> OrderView:
        """Return the order as its buyer sees it at `now`."""
        return OrderView(
            id=self.id,
            user_id=self.user_id,
            status=self.status,
            created_at=json_time(self.created_at),
            expires_at=json_time(self.expires_at),
            now=json_time(now),
            version=self.version,
            ticket=TicketView(
                id=self.ticket_id,
                title=self.title,
                price=decimal_of(self.price_cents),
                currency=self.currency,
                version=self.ticket_version,
            ),
            cancel_reason=self.cancel_reason,
        )
