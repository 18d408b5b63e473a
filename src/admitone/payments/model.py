"""A payment and its rules, which hold in whatever order results, webhooks and events arrive.

    created ──► requires_action ──► authorized ──► captured ──► refunded
       └────────────┴───────────────────┴─► voided, failed

Stripe reports what happened (`ProviderResult`), orders decides what is wanted; `Payment.apply` brings the two together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeVar
from uuid import UUID

import msgspec

from admitone.events import PaymentAuthorized, PaymentCreated, PaymentFailed, PaymentRefunded, PaymentVoided
from admitone.kernel.errors import Invalid, PaymentRequired
from admitone.kernel.messaging.event import Event

State = Literal["created", "requires_action", "authorized", "captured", "voided", "failed", "refunded"]
Wanted = Literal["capture", "void", "refund"]
OrderStatus = Literal["created", "awaiting:payment", "cancelled"]

E = TypeVar("E", bound=Event)

TOKEN_INVALID: Final = "token_invalid"  # noqa: S105 – a reason code
NOT_COMPLETED: Final = "The payment was not completed"

_LIVE: Final = frozenset({"created", "requires_action", "authorized", "captured"})
_OPEN: Final = frozenset({"created", "requires_action", "authorized"})

_CHECK_AGAIN: Final = timedelta(seconds=60)
# When a payment is also checked before its order's deadline: after it, what the buyer has confirmed is given back.
_CHECKS_BEFORE_DEADLINE: Final = (timedelta(seconds=10), timedelta(seconds=3))
_RETRY_SECONDS: Final = 0.5
_RETRY_SECONDS_MAX: Final = 60.0
# After so many refusals, about two minutes apart from first to last, a capture is given up.
_REFUSALS_MAX: Final = 8
_CAPTURE_REFUSED: Final = "The payment could not be completed"


class CardDeclined(PaymentRequired):
    """The card was refused"""


class InvalidToken(Invalid):
    """Token is not valid"""

    field = "token"


# What Stripe reports about a payment.


@dataclass(frozen=True)
class Authorized:
    """The money is held."""

    stripe_id: str


@dataclass(frozen=True)
class RequiresAction:
    """The buyer must authenticate: at `url`, or with the client secret in Stripe's script."""

    stripe_id: str
    client_secret: str
    url: str | None


@dataclass(frozen=True)
class Captured:
    """The money was taken, and a part of it may have been returned."""

    stripe_id: str
    refunded_cents: int = 0


@dataclass(frozen=True)
class CaptureRefused:
    """Stripe refused to take the money, which is still held."""

    stripe_id: str
    code: str


@dataclass(frozen=True)
class Refunded:
    """The money was taken and returned in full."""

    stripe_id: str


@dataclass(frozen=True)
class Declined:
    """The bank or Stripe refused; the code is TOKEN_INVALID if the token does not name a card."""

    code: str
    reason: str
    stripe_id: str | None = None


@dataclass(frozen=True)
class Canceled:
    """Nothing is held any more, and nothing was taken."""

    stripe_id: str


@dataclass(frozen=True)
class IntentNotFound:
    """Stripe has no PaymentIntent for this payment and will not create one any more."""


@dataclass(frozen=True)
class Unknown:
    """There was no usable response: the outcome must be requested again and must not be assumed."""

    reason: str


ProviderResult = (
    Authorized | RequiresAction | Captured | CaptureRefused | Refunded | Declined | Canceled | IntentNotFound | Unknown
)


class OrderReplica(msgspec.Struct, frozen=True):
    """What payments keeps of an order: whether, by whom, how much and until when it may be paid."""

    id: UUID
    version: int
    status: OrderStatus
    buyer_id: UUID
    price_cents: int
    currency: str
    expires_at: datetime

    def is_payable(self, now: datetime) -> bool:
        return self.status == "created" and now < self.expires_at

    def advanced(self, version: int, status: OrderStatus) -> "OrderReplica":
        return msgspec.structs.replace(self, version=version, status=status)


class Payment(msgspec.Struct, frozen=True):
    """One attempt to pay an order.

    `wanted` is what must still be done at Stripe. `due_at` is when the background job looks at the payment next, and
    `tries` how often it has since something was last wanted. `refusals` counts those of its capture.
    `checked_at` is when Stripe last reported what is held, or what the buyer must do.
    """

    id: UUID
    order_id: UUID
    attempt: int
    buyer_id: UUID
    amount_cents: int
    currency: str
    token: str
    idempotency_key: str | None
    created_at: datetime
    due_at: datetime | None
    checked_at: datetime | None = None
    state: State = "created"
    wanted: Wanted | None = None
    stripe_id: str | None = None
    client_secret: str | None = None
    action_url: str | None = None
    reason_code: str | None = None
    reason: str | None = None
    tries: int = 0
    refusals: int = 0
    refunded_cents: int = 0
    traceparent: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether this payment is in progress or captured, so that no other may begin."""
        return self.state in _LIVE

    @property
    def is_open(self) -> bool:
        """Whether this payment may still fail or be voided."""
        return self.state in _OPEN

    @property
    def gives_up_capture(self) -> bool:
        """Whether the hold is being released because Stripe refuses to capture it."""
        return self.state == "authorized" and self.wanted == "void" and self.reason_code is not None

    @property
    def provider_key(self) -> str:
        """The idempotency key of the authorization at Stripe."""
        return f"pi:{self.order_id}:{self.attempt}"

    # What is wanted.

    def capture(self, now: datetime) -> "Payment":
        """Return the payment to be captured; it is unchanged unless it is authorized and nothing else is wanted."""
        is_free = self.state == "authorized" and self.wanted is None
        return self.with_wanted("capture", now) if is_free else self

    def cancel(self, now: datetime) -> "Payment":
        """Return the payment to be voided, or refunded if it was captured; unchanged if nothing is left to cancel."""
        if self.state == "captured":
            return self if self.wanted == "refund" else self.with_wanted("refund", now)
        if self.gives_up_capture:
            return msgspec.structs.replace(self, reason_code=None)
        if not self.is_open or self.wanted == "void":
            return self
        # While the first response is outstanding, its result leads to the void: Stripe would find nothing to void now.
        due_at = self.due_at if self.state == "created" and self.tries == 0 else now
        return msgspec.structs.replace(self, wanted="void", due_at=due_at, tries=0)

    # What happened.

    def apply(
        self, result: ProviderResult, order: OrderReplica, now: datetime, *, is_last_attempt: bool
    ) -> tuple["Payment", list[Event]]:
        """Return the payment after a result, and the events to publish: each fact once in a payment's life.

        With the last attempt the order fails, too.
        """
        is_hidden = isinstance(result, IntentNotFound) and self.stripe_id is not None
        if isinstance(result, Unknown) or is_hidden:
            return self.retried_later(now), []
        match self.state:
            case "created" | "requires_action":
                return self._apply_in_progress(result, order, now, is_last_attempt=is_last_attempt)
            case "authorized":
                return self._apply_authorized(result, order, now)
            case "captured":
                if isinstance(result, Refunded):
                    refunded = self.settled("refunded").with_refunded(self.amount_cents)
                    return refunded, [refunded.event(PaymentRefunded)]
                kept = self.with_refunded(result.refunded_cents) if isinstance(result, Captured) else self
                return (kept.at_rest() if kept.wanted is None else kept.retried_later(now)), []
            case "failed" | "voided":
                return self._apply_over(result, now), []
            case "refunded":
                return self.at_rest(), []

    def _apply_in_progress(
        self, result: ProviderResult, order: OrderReplica, now: datetime, *, is_last_attempt: bool
    ) -> tuple["Payment", list[Event]]:
        is_cancelled = self.wanted == "void" or order.status == "cancelled"
        # Orders awaits a payment that this database, restored from an older copy, does not know to be authorized.
        is_awaited = self.wanted is None and order.status == "awaiting:payment"
        fails_order = is_awaited or (is_last_attempt and order.status == "created")
        match result:
            case Authorized(stripe_id) | Captured(stripe_id):
                # Captured before orders decided, in Stripe's dashboard for example: orders decides all the same.
                held = self.at_stripe("authorized", stripe_id, order, now)
                if is_cancelled:
                    return held.with_wanted("void", now), []
                return (held.capture(now) if is_awaited else held), [held.event(PaymentAuthorized)]
            case RequiresAction(stripe_id, client_secret, url):
                waiting = self.at_stripe("requires_action", stripe_id, order, now, client_secret, url)
                return (waiting.with_wanted("void", now) if is_cancelled else waiting), []
            case Declined(code, reason, stripe_id):
                failed = self.settled("failed", stripe_id, code, reason)
                if failed.stripe_id is not None:
                    # A declined intent must be canceled, or it could still be confirmed with its client secret.
                    failed = failed.with_wanted("void", now)
                return failed, [failed.event(PaymentFailed)] if fails_order else []
            case Canceled() | Refunded() | IntentNotFound() if self.wanted == "void":
                voided = self.settled("voided", _stripe_id(result))
                return voided, [voided.event(PaymentVoided)]
            case _:
                failed = self.settled("failed", _stripe_id(result), "not_completed", NOT_COMPLETED)
                return failed, [failed.event(PaymentFailed)] if fails_order else []

    def _apply_authorized(
        self, result: ProviderResult, order: OrderReplica, now: datetime
    ) -> tuple["Payment", list[Event]]:
        match result:
            case Captured() if self.wanted == "capture" or (self.gives_up_capture and order.status != "cancelled"):
                captured = self.settled("captured")
                return captured, [captured.event(PaymentCreated)]
            case Captured() if self.wanted == "void":
                return self.settled("captured").cancel(now), []
            case CaptureRefused() if self.wanted == "capture":
                return self._with_refusal(result, now), []
            case Canceled() | Refunded() | IntentNotFound() if self.gives_up_capture:
                failed = self.settled("failed", None, self.reason_code, _CAPTURE_REFUSED)
                return failed, [failed.event(PaymentFailed)]
            case Canceled() | Refunded() | IntentNotFound() if self.wanted == "void":
                voided = self.settled("voided")
                return voided, [voided.event(PaymentVoided)]
            case Canceled() | Refunded() | IntentNotFound():
                lost = self.settled("failed", None, "authorization_lost", "The bank no longer holds the money")
                return lost, [lost.event(PaymentFailed)]
            case Declined(code, reason) if self.wanted != "void":
                declined = self.settled("failed", None, code, reason).with_wanted("void", now)
                return declined, [declined.event(PaymentFailed)]
            case _ if self.wanted is None:
                return msgspec.structs.replace(self, due_at=now + _CHECK_AGAIN, tries=0), []
            case _:
                return self.retried_later(now), []

    def _with_refusal(self, refused: CaptureRefused, now: datetime) -> "Payment":
        """Return the payment to be captured again later, or to be voided after too many refusals.

        The order ends only when the hold is gone: until then a capture without a response may still take effect.
        """
        counted = msgspec.structs.replace(self, refusals=self.refusals + 1)
        if counted.refusals < _REFUSALS_MAX:
            return counted.retried_later(now)
        return msgspec.structs.replace(counted.with_wanted("void", now), reason_code=refused.code)

    def _apply_over(self, result: ProviderResult, now: datetime) -> "Payment":
        """Return the payment so that what Stripe still holds or has taken for it is returned; nothing is published."""
        match result:
            case Authorized(stripe_id) | RequiresAction(stripe_id):
                return self.retried_later(now) if self.wanted == "void" else self.with_wanted("void", now, stripe_id)
            case Captured(stripe_id):
                return (
                    self.retried_later(now) if self.wanted == "refund" else self.with_wanted("refund", now, stripe_id)
                )
            case Declined(stripe_id=str(stripe_id)):
                return self.retried_later(now) if self.wanted is not None else self.with_wanted("void", now, stripe_id)
            case Canceled() | Refunded():
                return self.at_rest()
            case _:
                # Nothing shows that Stripe holds nothing any more: what is wanted stays wanted.
                return self.retried_later(now) if self.wanted is not None else self.at_rest()

    # How a payment changes.

    def at_stripe(
        self,
        state: State,
        stripe_id: str,
        order: OrderReplica,
        now: datetime,
        client_secret: str | None = None,
        url: str | None = None,
    ) -> "Payment":
        """Return the payment in a state in which Stripe is asked again only later, and before its order's deadline."""
        before_deadline = [order.expires_at - each for each in _CHECKS_BEFORE_DEADLINE]
        return msgspec.structs.replace(
            self,
            state=state,
            stripe_id=stripe_id,
            client_secret=client_secret,
            action_url=url,
            due_at=min([now + _CHECK_AGAIN, *(each for each in before_deadline if each > now)]),
            checked_at=now,
            tries=0,
        )

    def settled(
        self, state: State, stripe_id: str | None = None, reason_code: str | None = None, reason: str | None = None
    ) -> "Payment":
        """Return the payment in a state in which nothing more has to be done at Stripe."""
        return msgspec.structs.replace(
            self.at_rest(),
            state=state,
            stripe_id=self.stripe_id or stripe_id,
            client_secret=None,
            action_url=None,
            reason_code=reason_code,
            reason=reason,
        )

    def at_rest(self) -> "Payment":
        """Return the payment with nothing wanted and nothing due."""
        return msgspec.structs.replace(self, wanted=None, due_at=None, tries=0)

    def with_wanted(self, wanted: Wanted, now: datetime, stripe_id: str | None = None) -> "Payment":
        return msgspec.structs.replace(self, wanted=wanted, due_at=now, tries=0, stripe_id=self.stripe_id or stripe_id)

    def with_refunded(self, cents: int) -> "Payment":
        """Return the payment with what was returned of it; a response that does not show refunds takes none back."""
        return msgspec.structs.replace(self, refunded_cents=max(self.refunded_cents, cents))

    def retried_later(self, now: datetime) -> "Payment":
        """Return the payment due after a growing delay, unless it has become due meanwhile."""
        if self.due_at is None or self.due_at <= now:
            return self
        delay_seconds = min(_RETRY_SECONDS * 2 ** min(self.tries, 16), _RETRY_SECONDS_MAX)
        return msgspec.structs.replace(self, due_at=now + timedelta(seconds=delay_seconds))

    def event(self, event_type: type[E]) -> E:
        """Return an event about this payment: its fields are the payment's of the same names, and `user_id`."""
        fields = {**msgspec.structs.asdict(self), "user_id": self.buyer_id}
        return event_type(**{name: fields[name] for name in event_type.__struct_fields__})

    # What events of this service report, in a database that was restored to an earlier time.

    @classmethod
    def rebuilt(
        cls,
        payment_id: UUID,
        order_id: UUID,
        buyer_id: UUID,
        price: tuple[int, str],
        created_at: datetime,
        known: Sequence["Payment"],
    ) -> "Payment":
        """Return a payment that the database lost, of an order with these payments; its card is not known any more."""
        amount_cents, currency = price
        return cls(
            id=payment_id,
            order_id=order_id,
            attempt=max((payment.attempt for payment in known), default=0) + 1,
            buyer_id=buyer_id,
            amount_cents=amount_cents,
            currency=currency,
            token="",
            idempotency_key=None,
            created_at=created_at,
            due_at=None,
        )

    def as_published(
        self,
        event: PaymentAuthorized | PaymentCreated | PaymentFailed | PaymentVoided | PaymentRefunded,
        now: datetime,
    ) -> "Payment":
        """Return the payment as an event describes it, unless it is further already; a hold is checked at Stripe."""
        match event:
            case PaymentAuthorized() if self.state in {"created", "requires_action"}:
                return msgspec.structs.replace(self.settled("authorized", event.stripe_id), due_at=now, checked_at=now)
            case PaymentCreated() if self.is_open:
                return self.settled("captured", event.stripe_id)
            case PaymentFailed() if self.is_open:
                return self.settled("failed", None, "not_completed", event.reason)
            case PaymentVoided() if self.is_open:
                return self.settled("voided")
            case PaymentRefunded() if self.state == "captured":
                return self.settled("refunded").with_refunded(self.amount_cents)
            case _:
                return self

    def lost_end(self, now: datetime) -> "Payment":
        """Return an open payment as over, because its order had a later one; Stripe is asked what it holds."""
        return msgspec.structs.replace(self.settled("voided"), due_at=now)

    def held_events(self) -> list[Event]:
        """Return the events that led orders to the money that is held or was taken; none if it is to be returned."""
        if self.wanted in {"void", "refund"} or self.state not in {"authorized", "captured"}:
            return []
        authorized = self.event(PaymentAuthorized)
        return [authorized] if self.state == "authorized" else [authorized, self.event(PaymentCreated)]


def _stripe_id(result: ProviderResult) -> str | None:
    return result.stripe_id if isinstance(result, (Canceled, Refunded)) else None
