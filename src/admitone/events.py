"""Every event of the marketplace: who tells it and what it says. The bus carries nothing else."""

from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

import msgspec

from admitone.kernel.messaging.event import Event

OrderStatus = Literal["created", "awaiting:payment", "complete", "cancelled"]
TicketStatus = Literal["available", "reserved", "sold"]
CancelReason = Literal["cancelled_by_buyer", "expired", "ticket_changed", "payment_failed"]

# auth


class UserCreated(Event):
    """Somebody signed up."""

    producer: ClassVar[str] = "auth"

    id: UUID
    email: str
    version: int


class UserUpdated(Event):
    """Somebody changed their e-mail address or their password."""

    producer: ClassVar[str] = "auth"

    id: UUID
    email: str
    version: int


class SessionRevoked(Event):
    """A session ended before its token expires; every service refuses that token from now on."""

    producer: ClassVar[str] = "auth"
    aggregate_field: ClassVar[str] = "session_id"

    session_id: UUID
    user_id: UUID
    expires_at: datetime


# tickets


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What is offered, as far as other services need it: every ticket event has these fields, and an order keeps them.

    A field added here must be added to TicketCreated and TicketUpdated, too.
    """

    title: str
    price_cents: int
    currency: str

    @classmethod
    def of(cls, event: "TicketCreated | TicketUpdated") -> "Offer":
        """Return the offer that a ticket event carries."""
        return msgspec.convert(event, cls, from_attributes=True)


class TicketCreated(Event):
    """A ticket was listed. Every ticket event carries the ticket's whole state, as far as others need it."""

    producer: ClassVar[str] = "tickets"

    id: UUID
    version: int
    title: str
    price_cents: int
    currency: str
    user_id: UUID
    status: TicketStatus = "available"
    order_id: UUID | None = None


class TicketUpdated(Event):
    """A ticket was edited, locked for an order, released or sold."""

    producer: ClassVar[str] = "tickets"

    id: UUID
    version: int
    title: str
    price_cents: int
    currency: str
    user_id: UUID
    status: TicketStatus
    order_id: UUID | None = None


class TicketLockRefused(Event):
    """An order was made for a ticket that its seller had changed meanwhile; the ticket was not locked."""

    producer: ClassVar[str] = "tickets"
    aggregate_field: ClassVar[str] = "ticket_id"

    ticket_id: UUID
    order_id: UUID


# orders


class OrderedTicket(msgspec.Struct, frozen=True, rename="camel"):
    """The ticket as it was when the order was made; the order keeps this price."""

    id: UUID
    version: int
    price_cents: int
    currency: str


class OrderCreated(Event):
    """A buyer holds a ticket and may pay until `expires_at`."""

    producer: ClassVar[str] = "orders"

    id: UUID
    version: int
    status: OrderStatus
    user_id: UUID
    expires_at: datetime
    ticket: OrderedTicket


class OrderAwaitingPayment(Event):
    """The payment is authorised and the order can no longer expire: the money may be taken."""

    producer: ClassVar[str] = "orders"

    id: UUID
    version: int
    user_id: UUID
    ticket_id: UUID
    payment_id: UUID


class OrderCompleted(Event):
    """The ticket is the buyer's."""

    producer: ClassVar[str] = "orders"

    id: UUID
    version: int
    user_id: UUID
    ticket_id: UUID
    payment_id: UUID


class OrderCancelled(Event):
    """The order is over and the ticket is free again."""

    producer: ClassVar[str] = "orders"

    id: UUID
    version: int
    user_id: UUID
    ticket_id: UUID
    reason: CancelReason


class PaymentRejected(Event):
    """A payment came for an order that cannot be paid any more, or not with this amount: nobody may be charged."""

    producer: ClassVar[str] = "orders"
    aggregate_field: ClassVar[str] = "order_id"

    order_id: UUID
    payment_id: UUID


# expiration


class OrderExpired(Event):
    """An order's deadline has passed; orders decides by its own clock what that means."""

    producer: ClassVar[str] = "expiration"
    aggregate_field: ClassVar[str] = "order_id"

    order_id: UUID


# payments


class PaymentAuthorized(Event):
    """The buyer's bank holds the money for this order; nothing is taken yet."""

    producer: ClassVar[str] = "payments"

    id: UUID
    order_id: UUID
    user_id: UUID
    amount_cents: int
    currency: str
    stripe_id: str


class PaymentCreated(Event):
    """The money was taken."""

    producer: ClassVar[str] = "payments"

    id: UUID
    order_id: UUID
    user_id: UUID
    amount_cents: int
    currency: str
    stripe_id: str


class PaymentFailed(Event):
    """The order cannot be paid: every attempt was refused, or an authorisation was lost before it was captured."""

    producer: ClassVar[str] = "payments"

    id: UUID
    order_id: UUID
    reason: str


class PaymentVoided(Event):
    """An authorisation was given back; nothing was charged."""

    producer: ClassVar[str] = "payments"

    id: UUID
    order_id: UUID
    user_id: UUID


class PaymentRefunded(Event):
    """A charge was given back in full."""

    producer: ClassVar[str] = "payments"

    id: UUID
    order_id: UUID
    user_id: UUID
    amount_cents: int
    currency: str
