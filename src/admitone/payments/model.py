"""A payment and what may become of it; the rules hold in whatever sequence answers, webhooks and events arrive.

    created ──► requires_action ──► authorized ──► captured ──► refunded
       └────────────┴───────────────────┴─► voided, failed

Stripe says what happened (a finding), orders say what is wanted, and `learn` brings the two together.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

import msgspec

from admitone.events import PaymentAuthorized, PaymentCreated, PaymentFailed, PaymentRefunded, PaymentVoided
from admitone.kernel.errors import Conflict, Forbidden, Invalid, NotFound, PaymentRequired
from admitone.kernel.messaging.event import Event

State = Literal["created", "requires_action", "authorized", "captured", "voided", "failed", "refunded"]
Wanted = Literal["capture", "void", "refund"]
OrderStatus = Literal["created", "awaiting:payment", "cancelled"]

TOKEN_INVALID: Final = "token_invalid"  # noqa: S105 – a reason

_LIVE: Final = frozenset({"created", "requires_action", "authorized", "captured"})
_OPEN: Final = frozenset({"created", "requires_action", "authorized"})

# How long whoever begins a payment, or looks at one in the background, has it to itself.
LEASE_SECONDS: Final = 30.0
_LOOK_AGAIN: Final = timedelta(seconds=60)
_RETRY_SECONDS: Final = 0.5
_RETRY_SECONDS_MAX: Final = 60.0


class NoSuchOrder(NotFound):
    """Not Found"""


class NotYourOrder(Forbidden):
    """This order belongs to somebody else"""


class OrderIsCancelled(Invalid):
    """This order is cancelled; nothing is charged"""


class OrderHasExpired(Invalid):
    """The time to pay this order is over; nothing is charged"""


class NoAttemptsLeft(Invalid):
    """The payment was refused too often; this order is being cancelled and nothing is charged"""


class BeingPaid(Conflict):
    """This order is being paid already; do not pay again"""


class CardRefused(PaymentRequired):
    """The card was refused"""


class TokenRefused(Invalid):
    """Token is not valid"""

    field = "token"


# What Stripe may say about a payment.


@dataclass(frozen=True)
class Authorized:
    """The money is held."""

    stripe_id: str


@dataclass(frozen=True)
class NeedsAction:
    """The buyer must confirm at the bank: at `url`, or by Stripe's script with the client secret."""

    stripe_id: str
    client_secret: str
    url: str | None


@dataclass(frozen=True)
class Taken:
    """The money was taken."""

    stripe_id: str


@dataclass(frozen=True)
class GivenBack:
    """The money was taken and all of it given back."""

    stripe_id: str


@dataclass(frozen=True)
class Declined:
    """The bank, or Stripe, said no; the code is TOKEN_INVALID when what names the card is to blame."""

    code: str
    reason: str
    stripe_id: str | None = None


@dataclass(frozen=True)
class Released:
    """Nothing is held any more, and nothing was taken."""

    stripe_id: str


@dataclass(frozen=True)
class Absent:
    """Stripe never heard of this payment and will not hear of it any more."""


@dataclass(frozen=True)
class Unknown:
    """No answer: what happened must be asked again and may not be assumed."""

    why: str


Finding = Authorized | NeedsAction | Taken | GivenBack | Declined | Released | Absent | Unknown


class Order(msgspec.Struct, frozen=True):
    """What may be paid, as orders told it."""

    id: UUID
    version: int
    status: OrderStatus
    user_id: UUID
    price_cents: int
    currency: str
    expires_at: datetime

    def is_payable(self, now: datetime) -> bool:
        return self.status == "created" and now < self.expires_at


class Payment(msgspec.Struct, frozen=True):
    """One attempt to pay an order."""

    id: UUID
    order_id: UUID
    attempt: int
    user_id: UUID
    amount_cents: int
    currency: str
    token: str
    request_key: str | None
    created_at: datetime
    due_at: datetime | None
    state: State = "created"
    wanted: Wanted | None = None
    stripe_id: str | None = None
    client_secret: str | None = None
    action_url: str | None = None
    reason_code: str | None = None
    reason: str | None = None
    tries: int = 0
    traceparent: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether this payment is under way or taken, so that no other may begin."""
        return self.state in _LIVE

    @property
    def is_open(self) -> bool:
        """Whether it can still come to nothing."""
        return self.state in _OPEN

    @property
    def provider_key(self) -> str:
        """The idempotency key under which Stripe is asked to hold the money."""
        return f"pi:{self.order_id}:{self.attempt}"

    # What is wanted.

    def to_give_up(self, now: datetime) -> "Payment":
        """Return the payment with everything wanted back: what is held, or what was taken."""
        if self.state == "captured":
            return msgspec.structs.replace(self, wanted="refund", due_at=now, tries=0)
        if not self.is_open or self.wanted == "void":
            return self
        # While the first answer is still out, its own way leads to the void; asking Stripe now would find nothing.
        due_at = self.due_at if self.state == "created" and self.tries == 0 else now
        return msgspec.structs.replace(self, wanted="void", due_at=due_at, tries=0)

    # What happened.

    def learn(self, finding: Finding, order: "Order", now: datetime, *, is_last: bool) -> tuple["Payment", list[Event]]:
        """Return the payment after Stripe said something, and what is to be told: each fact once in its life.

        `is_last` says that the order fails with this attempt, if this attempt fails.
        """
        if isinstance(finding, Unknown):
            return self.later(now), []
        match self.state:
            case "created" | "requires_action":
                return self._learn_under_way(finding, order, now, is_last=is_last)
            case "authorized":
                return self._learn_authorized(finding, now)
            case "captured":
                if isinstance(finding, GivenBack):
                    return self.settled("refunded"), [refunded_event(self)]
                return (self.at_rest() if self.wanted is None else self.later(now)), []
            case "failed" | "voided":
                return self._learn_over(finding, now), []
            case "refunded":
                return self.at_rest(), []

    def _learn_under_way(
        self, finding: Finding, order: "Order", now: datetime, *, is_last: bool
    ) -> tuple["Payment", list[Event]]:
        is_over = self.wanted == "void" or order.status == "cancelled"
        fails_order = is_last and order.status == "created"
        match finding:
            case Authorized(stripe_id) | Taken(stripe_id):
                # Taken without being held first, by hand or by the method's nature: orders decide all the same.
                held = self.at_stripe("authorized", stripe_id, now)
                return (held.wanting("void", now), []) if is_over else (held, [authorized_event(held)])
            case NeedsAction(stripe_id, client_secret, url):
                waiting = self.at_stripe("requires_action", stripe_id, now, client_secret, url)
                return (waiting.wanting("void", now) if is_over else waiting), []
            case Declined(code, reason, stripe_id):
                failed = self.settled("failed", stripe_id, code, reason)
                if failed.stripe_id is not None:
                    # Whoever has its client secret could still confirm a refused intent: it is closed.
                    failed = failed.wanting("void", now)
                return failed, [failed_event(failed)] if fails_order else []
            case Released() | GivenBack() | Absent() if self.wanted == "void":
                voided = self.settled("voided", _stripe_id(finding))
                return voided, [voided_event(voided)]
            case _:
                failed = self.settled("failed", _stripe_id(finding), "not_completed", "The payment was not completed")
                return failed, [failed_event(failed)] if fails_order else []

    def _learn_authorized(self, finding: Finding, now: datetime) -> tuple["Payment", list[Event]]:
        match finding:
            case Taken() if self.wanted == "capture":
                taken = self.settled("captured")
                return taken, [created_event(taken)]
            case Taken() if self.wanted == "void":
                return self.settled("captured").to_give_up(now), []
            case Released() | GivenBack() | Absent() if self.wanted == "void":
                voided = self.settled("voided")
                return voided, [voided_event(voided)]
            case Released() | GivenBack() | Absent():
                lost = self.settled("failed", None, "authorization_lost", "The bank no longer holds the money")
                return lost, [failed_event(lost)]
            case Declined(code, reason) if self.wanted != "void":
                refused = self.settled("failed", None, code, reason).wanting("void", now)
                return refused, [failed_event(refused)]
            case _ if self.wanted is None:
                return msgspec.structs.replace(self, due_at=now + _LOOK_AGAIN, tries=0), []
            case _:
                return self.later(now), []

    def _learn_over(self, finding: Finding, now: datetime) -> "Payment":
        """What Stripe holds or took for a payment that is over goes back, without a word to anybody."""
        match finding:
            case Authorized(stripe_id) | NeedsAction(stripe_id):
                return self.later(now) if self.wanted == "void" else self.wanting("void", now, stripe_id)
            case Taken(stripe_id):
                return self.later(now) if self.wanted == "refund" else self.wanting("refund", now, stripe_id)
            case Declined(stripe_id=str(stripe_id)):
                return self.later(now) if self.wanted is not None else self.wanting("void", now, stripe_id)
            case _:
                return self.at_rest()

    # How a payment changes.

    def at_stripe(
        self, state: State, stripe_id: str, now: datetime, client_secret: str | None = None, url: str | None = None
    ) -> "Payment":
        return msgspec.structs.replace(
            self,
            state=state,
            stripe_id=stripe_id,
            client_secret=client_secret,
            action_url=url,
            due_at=now + _LOOK_AGAIN,
            tries=0,
        )

    def settled(
        self, state: State, stripe_id: str | None = None, reason_code: str | None = None, reason: str | None = None
    ) -> "Payment":
        """Return the payment where nothing more is to be done at Stripe."""
        return msgspec.structs.replace(
            self,
            state=state,
            wanted=None,
            due_at=None,
            tries=0,
            stripe_id=self.stripe_id or stripe_id,
            client_secret=None,
            action_url=None,
            reason_code=reason_code,
            reason=reason,
        )

    def at_rest(self) -> "Payment":
        """Return the payment with nothing left to do or to look at."""
        return msgspec.structs.replace(self, wanted=None, due_at=None, tries=0)

    def wanting(self, wanted: Wanted, now: datetime, stripe_id: str | None = None) -> "Payment":
        return msgspec.structs.replace(self, wanted=wanted, due_at=now, tries=0, stripe_id=self.stripe_id or stripe_id)

    def later(self, now: datetime) -> "Payment":
        """Return the payment put off by a growing pause, unless somebody wants it looked at sooner."""
        if self.due_at is None or self.due_at <= now:
            return self
        pause_seconds = min(_RETRY_SECONDS * 2 ** min(self.tries, 16), _RETRY_SECONDS_MAX)
        return msgspec.structs.replace(self, due_at=now + timedelta(seconds=pause_seconds))


def _stripe_id(finding: Finding) -> str | None:
    return finding.stripe_id if isinstance(finding, (Released, GivenBack)) else None


# What is told.


def authorized_event(payment: Payment) -> PaymentAuthorized:
    return PaymentAuthorized(
        id=payment.id,
        order_id=payment.order_id,
        user_id=payment.user_id,
        amount_cents=payment.amount_cents,
        currency=payment.currency,
        stripe_id=str(payment.stripe_id),
    )


def created_event(payment: Payment) -> PaymentCreated:
    return PaymentCreated(
        id=payment.id,
        order_id=payment.order_id,
        user_id=payment.user_id,
        amount_cents=payment.amount_cents,
        currency=payment.currency,
        stripe_id=str(payment.stripe_id),
    )


def failed_event(payment: Payment) -> PaymentFailed:
    return PaymentFailed(id=payment.id, order_id=payment.order_id, reason=str(payment.reason))


def voided_event(payment: Payment) -> PaymentVoided:
    return PaymentVoided(id=payment.id, order_id=payment.order_id, user_id=payment.user_id)


def refunded_event(payment: Payment) -> PaymentRefunded:
    return PaymentRefunded(
        id=payment.id,
        order_id=payment.order_id,
        user_id=payment.user_id,
        amount_cents=payment.amount_cents,
        currency=payment.currency,
    )
