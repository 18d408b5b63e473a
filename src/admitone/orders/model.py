"""An order and its states: the rules hold for every caller and every sequence of events."""

from datetime import datetime
from uuid import UUID

import msgspec
from msgspec.structs import asdict, replace

from admitone.events import (
    CancelReason,
    Offer,
    OrderAwaitingPayment,
    OrderCancelled,
    OrderCompleted,
    OrderCreated,
    OrderedTicket,
    OrderStatus,
    TicketCreated,
    TicketStatus,
    TicketUpdated,
)
from admitone.kernel.errors import Forbidden, Invalid, NotFound

OrderEvent = OrderCreated | OrderAwaitingPayment | OrderCompleted | OrderCancelled


class TicketAlreadyReserved(Invalid):
    """Ticket is already reserved"""


class OwnTicket(Invalid):
    """You cannot buy your own ticket"""


class OrderComplete(Invalid):
    """A completed order cannot be cancelled"""


class PaymentInProgress(Invalid):
    """The payment for this order is being confirmed; it cannot be cancelled now"""


class NotYourOrder(Forbidden):
    """This order belongs to somebody else"""


class NoSuchOrder(NotFound):
    """Not Found"""


class NoSuchTicket(NotFound):
    """Not Found"""


class TicketReplica(msgspec.Struct, frozen=True):
    """A ticket as this service knows it; `order_id` is the order for which tickets has confirmed the lock."""

    id: UUID
    version: int
    seller_id: UUID
    offer: Offer
    status: TicketStatus
    order_id: UUID | None
    revision: int

    @classmethod
    def of(cls, event: TicketCreated | TicketUpdated) -> "TicketReplica":
        return cls(
            id=event.id,
            version=event.version,
            seller_id=event.user_id,
            offer=Offer.of(event),
            status=event.status,
            order_id=event.order_id,
            revision=event.revision,
        )


class Order(msgspec.Struct, frozen=True):
    """A buyer's hold on a ticket, which becomes a purchase.

    `created` can be paid, cancelled or expire; `awaiting:payment` waits for money that is already authorised;
    `complete` and `cancelled` are final. The order keeps the offer as it was at the hold.
    """

    id: UUID
    version: int
    status: OrderStatus
    buyer_id: UUID
    ticket_id: UUID
    ticket_version: int
    ticket_revision: int
    offer: Offer
    created_at: datetime
    expires_at: datetime
    payment_id: UUID | None = None
    cancel_reason: CancelReason | None = None

    def for_buyer(self, user_id: UUID) -> "Order":
        """Return the order; raises NotYourOrder for anybody but its buyer."""
        if self.buyer_id != user_id:
            raise NotYourOrder
        return self

    def is_overdue(self, now: datetime) -> bool:
        return self.status == "created" and self.expires_at <= now

    def accepts(self, user_id: UUID, amount_cents: int, currency: str) -> bool:
        """Whether a payment of this amount by this user may still be taken for the order."""
        return self.status == "created" and (user_id, amount_cents, currency) == (
            self.buyer_id,
            self.offer.price_cents,
            self.offer.currency,
        )

    def awaits(self, payment_id: UUID) -> bool:
        return self.status == "awaiting:payment" and self.payment_id == payment_id

    def is_cancelled_by_failure_of(self, payment_id: UUID) -> bool:
        """Whether the order cannot go on without this payment."""
        return self.status == "created" or self.awaits(payment_id)

    def cancelled_by_buyer(self) -> "Order":
        """Return the order cancelled; a cancelled one is returned as it is."""
        if self.status == "complete":
            raise OrderComplete
        if self.status == "awaiting:payment":
            raise PaymentInProgress
        return self if self.status == "cancelled" else self.cancelled("cancelled_by_buyer")

    def cancelled(self, reason: CancelReason) -> "Order":
        """Return the order cancelled. One that awaits its payment is only cancelled because that payment failed."""
        assert self.status == "created" or (self.status == "awaiting:payment" and reason == "payment_failed")
        return replace(self, status="cancelled", version=self.version + 1, cancel_reason=reason)

    def awaiting_payment(self, payment_id: UUID) -> "Order":
        assert self.status == "created"
        return replace(self, status="awaiting:payment", version=self.version + 1, payment_id=payment_id)

    def completed(self) -> "Order":
        assert self.status == "awaiting:payment"
        return replace(self, status="complete", version=self.version + 1)

    def after(self, event: OrderAwaitingPayment | OrderCompleted | OrderCancelled) -> "Order":
        """Return the order in its next version, whose event this is."""
        match event:
            case OrderAwaitingPayment():
                return self.awaiting_payment(event.payment_id)
            case OrderCompleted():
                return self.completed()
            case OrderCancelled():
                return self.cancelled(event.reason)

    def history(self) -> list["Order"]:
        """Return the order in each version up to this one."""
        created = replace(self, status="created", version=0, payment_id=None, cancel_reason=None)
        if self.payment_id is None:
            return [created] if self.version == 0 else [created, self]
        awaiting = created.awaiting_payment(self.payment_id)
        return [created, awaiting] if self.version == 1 else [created, awaiting, self]

    def event(self) -> OrderEvent:
        """Return the event of the status that the order has just reached."""
        if self.status == "created":
            return OrderCreated(
                id=self.id,
                version=self.version,
                status=self.status,
                user_id=self.buyer_id,
                expires_at=self.expires_at,
                ticket=OrderedTicket(
                    id=self.ticket_id,
                    version=self.ticket_version,
                    revision=self.ticket_revision,
                    **asdict(self.offer),
                ),
            )
        if self.status == "cancelled":
            assert self.cancel_reason is not None
            return OrderCancelled(
                id=self.id,
                version=self.version,
                user_id=self.buyer_id,
                ticket_id=self.ticket_id,
                reason=self.cancel_reason,
            )
        assert self.payment_id is not None
        event_type = OrderAwaitingPayment if self.status == "awaiting:payment" else OrderCompleted
        return event_type(
            id=self.id,
            version=self.version,
            user_id=self.buyer_id,
            ticket_id=self.ticket_id,
            payment_id=self.payment_id,
        )
