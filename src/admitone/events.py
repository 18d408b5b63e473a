"""Every event of the marketplace, by the service that publishes it."""

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
    """An account was created."""

    producer: ClassVar[str] = "auth"

    id: UUID
    email: str
    version: int


class UserUpdated(Event):
    """An account's e-mail address or password changed; or, as a snapshot, the account is as the event describes it."""

    producer: ClassVar[str] = "auth"

    id: UUID
    email: str
    version: int
    snapshot: bool = False
    password_changed: bool = False


class SessionRevoked(Event):
    """A session ended before its token expires; from now on every service refuses the token."""

    producer: ClassVar[str] = "auth"
    aggregate_field: ClassVar[str] = "session_id"

    session_id: UUID
    user_id: UUID
    expires_at: datetime


# tickets


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a seller says about a ticket: every ticket event has these fields, and an order keeps them.

    A field added here must be added to TicketCreated, TicketUpdated and OrderedTicket, too.
    """

    title: str
    price_cents: int
    currency: str
    face_value_cents: int | None = None
    event_date: datetime | None = None
    venue: str | None = None
    section: str | None = None
    row: str | None = None
    seat: str | None = None
    note: str | None = None

    @classmethod
    def of(cls, event: "TicketCreated | TicketUpdated | OrderedTicket") -> "Offer":
        """Return the offer that a ticket event or an order carries; one of an earlier release may have no title."""
        return msgspec.convert(event, cls, from_attributes=True)


class TicketCreated(Event):
    """A ticket was listed. Ticket events carry all of the ticket's state; `revision` is how often it was edited."""

    producer: ClassVar[str] = "tickets"

    id: UUID
    version: int
    title: str
    price_cents: int
    currency: str
    user_id: UUID
    status: TicketStatus = "available"
    order_id: UUID | None = None
    revision: int = 0
    face_value_cents: int | None = None
    event_date: datetime | None = None
    venue: str | None = None
    section: str | None = None
    row: str | None = None
    seat: str | None = None
    note: str | None = None


class TicketUpdated(Event):
    """A ticket was edited, reserved for an order, released or sold; or, as a snapshot, is as the event describes it."""

    producer: ClassVar[str] = "tickets"

    id: UUID
    version: int
    title: str
    price_cents: int
    currency: str
    user_id: UUID
    status: TicketStatus
    order_id: UUID | None = None
    revision: int = 0
    face_value_cents: int | None = None
    event_date: datetime | None = None
    venue: str | None = None
    section: str | None = None
    row: str | None = None
    seat: str | None = None
    note: str | None = None
    snapshot: bool = False


class TicketLockRefused(Event):
    """A ticket was not reserved for an order, because its seller had changed it before the order arrived."""

    producer: ClassVar[str] = "tickets"
    aggregate_field: ClassVar[str] = "ticket_id"

    ticket_id: UUID
    order_id: UUID


# orders


class OrderedTicket(msgspec.Struct, frozen=True, rename="camel"):
    """The ticket at the time of the order; the order keeps this offer, and locks this revision or none."""

    id: UUID
    version: int
    price_cents: int
    currency: str
    revision: int = 0
    title: str | None = None
    face_value_cents: int | None = None
    event_date: datetime | None = None
    venue: str | None = None
    section: str | None = None
    row: str | None = None
    seat: str | None = None
    note: str | None = None


class OrderCreated(Event):
    """A buyer holds a ticket and can pay for it until `expires_at`."""

    producer: ClassVar[str] = "orders"

    id: UUID
    version: int
    status: OrderStatus
    user_id: UUID
    expires_at: datetime
    ticket: OrderedTicket


class OrderAwaitingPayment(Event):
    """The payment is authorised and the order can no longer expire: the payment may be captured."""

    producer: ClassVar[str] = "orders"

    id: UUID
    version: int
    user_id: UUID
    ticket_id: UUID
    payment_id: UUID


class OrderCompleted(Event):
    """The payment was captured and the ticket belongs to the buyer."""

    producer: ClassVar[str] = "orders"

    id: UUID
    version: int
    user_id: UUID
    ticket_id: UUID
    payment_id: UUID


class OrderCancelled(Event):
    """The order ended without a sale; tickets releases the ticket if this order has locked it."""

    producer: ClassVar[str] = "orders"

    id: UUID
    version: int
    user_id: UUID
    ticket_id: UUID
    reason: CancelReason


class PaymentRejected(Event):
    """A payment does not fit its order, which has ended or costs another amount: it must be voided or refunded."""

    producer: ClassVar[str] = "orders"
    aggregate_field: ClassVar[str] = "order_id"

    order_id: UUID
    payment_id: UUID


# expiration


class OrderExpired(Event):
    """The deadline of an order has passed. It is a repeated signal; the expiry is OrderCancelled with its reason."""

    producer: ClassVar[str] = "expiration"
    aggregate_field: ClassVar[str] = "order_id"

    order_id: UUID


# payments


class PaymentAuthorized(Event):
    """The buyer's bank holds the amount of the order; nothing is charged yet."""

    producer: ClassVar[str] = "payments"

    id: UUID
    order_id: UUID
    user_id: UUID
    amount_cents: int
    currency: str
    stripe_id: str


class PaymentCreated(Event):
    """The payment was captured: the buyer is charged."""

    producer: ClassVar[str] = "payments"

    id: UUID
    order_id: UUID
    user_id: UUID
    amount_cents: int
    currency: str
    stripe_id: str


class PaymentFailed(Event):
    """The order cannot be paid: every attempt was declined, or an authorisation was lost before its capture."""

    producer: ClassVar[str] = "payments"

    id: UUID
    order_id: UUID
    reason: str


class PaymentVoided(Event):
    """An authorisation was cancelled; nothing was charged."""

    producer: ClassVar[str] = "payments"

    id: UUID
    order_id: UUID
    user_id: UUID


class PaymentRefunded(Event):
    """A charge was refunded in full."""

    producer: ClassVar[str] = "payments"

    id: UUID
    order_id: UUID
    user_id: UUID
    amount_cents: int
    currency: str
