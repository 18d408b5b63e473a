"""What Stripe sends: the fields of its objects that are used, and what a PaymentIntent means for its payment.

`gateway.py` has the requests.
"""

from functools import cached_property
from typing import Annotated, Final
from uuid import UUID

import msgspec

from admitone.payments.model import (
    NOT_COMPLETED,
    Authorized,
    Canceled,
    Captured,
    Declined,
    ProviderResult,
    Refunded,
    RequiresAction,
    Unknown,
)

_REASON_CHARACTERS_MAX: Final = 300

# Visible ASCII, as all ids of Stripe are: it becomes a key of ours, and PostgreSQL cannot store NUL.
StripeId = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,255}\Z")]

# The text is not JSON, lacks what it must have, or is nested too deeply.
MALFORMED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class StripeAccount(msgspec.Struct):
    id: str


class StripeRefund(msgspec.Struct):
    id: str


class _Charge(msgspec.Struct):
    amount_refunded: int = 0


class _Redirect(msgspec.Struct):
    url: str | None = None


class _NextAction(msgspec.Struct):
    type: str
    redirect_to_url: _Redirect | None = None


class _Error(msgspec.Struct):
    code: str | None = None
    decline_code: str | None = None
    message: str | None = None


class PaymentIntent(msgspec.Struct, kw_only=True):
    """The fields of a PaymentIntent that are used, in a response, a list or a webhook."""

    id: str
    amount: int
    currency: str
    created: int
    livemode: bool
    status: str
    metadata: dict[str, str] = {}
    amount_received: int = 0
    client_secret: str | None = None
    latest_charge: _Charge | str | None = None
    last_payment_error: _Error | None = None
    next_action: _NextAction | None = None

    @property
    def payment_id(self) -> UUID | None:
        """The id of the payment it was created for; None if it was not created by an installation of AdmitOne."""
        return self._named("payment_id")

    @property
    def order_id(self) -> UUID | None:
        """The id of the order it was created for, like `payment_id`."""
        return self._named("order_id")

    def _named(self, name: str) -> UUID | None:
        try:
            return UUID(self.metadata.get(name, ""))
        except ValueError:
            return None

    @property
    def is_over(self) -> bool:
        """Whether nothing is held for it, and nothing that was taken is kept."""
        return isinstance(self.result, (Canceled, Refunded))

    @property
    def result(self) -> ProviderResult:
        """What the intent's status means for its payment."""
        match self.status:
            case "requires_capture":
                return Authorized(self.id)
            case "succeeded":
                refunded = self.latest_charge.amount_refunded if isinstance(self.latest_charge, _Charge) else 0
                return Refunded(self.id) if 0 < self.amount_received <= refunded else Captured(self.id, refunded)
            case "canceled":
                return Canceled(self.id)
            case "requires_action":
                redirect = self.next_action.redirect_to_url if self.next_action else None
                return RequiresAction(self.id, self.client_secret or "", redirect.url if redirect else None)
            case "requires_payment_method" | "requires_confirmation":
                error = self.last_payment_error or _Error()
                return Declined(_code(error), buyer_reason(error.message), self.id)
            case _:
                return Unknown(f"the intent is {self.status}")


class _EventObject(msgspec.Struct):
    """The fields of a webhook event's object that identify the PaymentIntent."""

    id: StripeId
    object: str
    payment_intent: StripeId | None = None


class _EventContent(msgspec.Struct):
    object: msgspec.Raw


class WebhookEvent(msgspec.Struct, dict=True):
    """An event that Stripe sends to the webhook endpoint."""

    id: StripeId
    type: str
    livemode: bool
    data: _EventContent

    @cached_property
    def intent_id(self) -> str | None:
        """The PaymentIntent that the event is about, if it is about one."""
        try:
            subject = msgspec.json.decode(self.data.object, type=_EventObject)
        except MALFORMED:
            return None
        return subject.id if subject.object == "payment_intent" else subject.payment_intent

    @cached_property
    def intent(self) -> PaymentIntent | None:
        """The PaymentIntent at the time of the event, if the event contains it."""
        if not self.type.startswith("payment_intent."):
            return None
        try:
            return msgspec.json.decode(self.data.object, type=PaymentIntent)
        except MALFORMED:
            return None


class PaymentIntents(msgspec.Struct):
    """A page of a list or of search results."""

    data: list[PaymentIntent]
    has_more: bool = False


def _code(error: _Error) -> str:
    return error.decline_code or error.code or "not_completed"


def buyer_reason(message: str | None) -> str:
    """Return Stripe's message for the buyer, shortened; without one, that the payment was not completed."""
    return (message or NOT_COMPLETED)[:_REASON_CHARACTERS_MAX]
