"""The requests and responses of the payments API."""

from decimal import Decimal
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec

from admitone.kernel.http import parsing
from admitone.kernel.http.parsing import Rule, json_time
from admitone.kernel.money import decimal_of
from admitone.payments.model import Payment

TOKEN_MAX: Final = 200

Status = Literal["pending", "requires_action", "authorized", "captured", "voided", "failed", "refunded"]


class NewPayment(msgspec.Struct, rename="camel"):
    """What a buyer sends to pay: the order, and a token, payment method or confirmation token of Stripe."""

    order_id: Annotated[UUID, Rule("OrderId must be provided", parsing.uuid)]
    token: Annotated[
        str,
        msgspec.Meta(min_length=1, max_length=TOKEN_MAX),
        Rule("Token must be provided", parsing.line(TOKEN_MAX, 1)),
    ]


class PaymentsOf(msgspec.Struct, rename="camel"):
    """The order whose payments to list."""

    order_id: Annotated[UUID, Rule("OrderId must be provided", parsing.uuid)]


class ActionView(msgspec.Struct, rename="camel", omit_defaults=True):
    """How the buyer confirms a payment: on the page at `url`, or by Stripe's script with the client secret."""

    client_secret: str
    url: str | None = None


class PaymentView(msgspec.Struct, rename="camel", omit_defaults=True):
    """One attempt to pay, as the buyer sees it.

    `pending` means that there is no response from Stripe yet: the payment settles by itself and must not be repeated.
    """

    id: UUID
    order_id: UUID
    status: Status
    amount: Decimal
    currency: str
    attempt: int
    created_at: parsing.TimeText
    stripe_id: str | None = None
    action: ActionView | None = None
    reason: str | None = None


class PaymentsView(msgspec.Struct, rename="camel"):
    """Every attempt to pay an order, newest first, and how many more there may be."""

    payments: list[PaymentView]
    attempts_left: int


def view(payment: Payment, status: Status | None = None) -> PaymentView:
    """Return a payment as its buyer sees it; `status` replaces its own state."""
    status = status or ("pending" if payment.state == "created" else payment.state)
    requires_action = status == "requires_action" and payment.client_secret is not None
    return PaymentView(
        id=payment.id,
        order_id=payment.order_id,
        status=status,
        amount=decimal_of(payment.amount_cents),
        currency=payment.currency,
        attempt=payment.attempt,
        created_at=json_time(payment.created_at),
        stripe_id=payment.stripe_id,
        action=ActionView(str(payment.client_secret), payment.action_url) if requires_action else None,
        reason=payment.reason,
    )
