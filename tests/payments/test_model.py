"""The rules of a payment, for every sequence in which answers, webhooks and events can come."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from admitone.kernel import ids
from admitone.payments.model import (
    Absent,
    Authorized,
    Declined,
    Finding,
    GivenBack,
    NeedsAction,
    Order,
    Payment,
    Released,
    Taken,
    Unknown,
)

NOW: Final = datetime(2026, 11, 21, 12, tzinfo=UTC)
ORDER: Final = Order(
    id=ids.new_id(),
    version=0,
    status="created",
    user_id=ids.new_id(),
    price_cents=1999,
    currency="usd",
    expires_at=NOW + timedelta(minutes=15),
)
BEGUN: Final = Payment(
    id=ids.new_id(),
    order_id=ORDER.id,
    attempt=1,
    user_id=ORDER.user_id,
    amount_cents=1999,
    currency="usd",
    token="tok_visa",
    request_key=None,
    created_at=NOW,
    due_at=NOW + timedelta(seconds=30),
)

# The same as the database's trigger.
LEADS_TO: Final = {
    "created": {"requires_action", "authorized", "captured", "voided", "failed"},
    "requires_action": {"authorized", "captured", "voided", "failed"},
    "authorized": {"captured", "voided", "failed"},
    "captured": {"refunded"},
    "voided": set[str](),
    "failed": set[str](),
    "refunded": set[str](),
}

FINDINGS: Final[list[Finding]] = [
    Authorized("pi_1"),
    NeedsAction("pi_1", "pi_1_secret", "https://bank.example/"),
    Taken("pi_1"),
    GivenBack("pi_1"),
    Declined("card_declined", "Your card was declined.", "pi_1"),
    Declined("token_invalid", "The payment provider refused the request"),
    Released("pi_1"),
    Absent(),
    Unknown("TimeoutError"),
]
STEPS: Final = st.sampled_from([*FINDINGS, "capture", "give up", "cancel order", "lend"])


def step(payment: Payment, order: Order, what: Finding | str, now: datetime) -> tuple[Payment, Order, list[str]]:
    match what:
        case "capture":
            awaited = msgspec.structs.replace(order, status="awaiting:payment")
            # What `store.await_payment` does in one statement.
            is_held = payment.state == "authorized" and payment.wanted is None
            return payment.wanting("capture", now) if is_held else payment, awaited, []
        case "give up":
            return payment.to_give_up(now), order, []
        case "cancel order":
            return payment.to_give_up(now), msgspec.structs.replace(order, status="cancelled"), []
        case "lend":
            due_at = now + timedelta(seconds=30)
            return msgspec.structs.replace(payment, due_at=due_at, tries=payment.tries + 1), order, []
        case _:
            assert not isinstance(what, str)
            after, told = payment.learn(what, order, now, is_last=True)
            return after, order, [type(event).__name__ for event in told]


@given(st.lists(STEPS, max_size=14))
def test_a_payment_only_moves_on_and_tells_each_fact_once(steps: list[Finding | str]) -> None:
    payment, order, told, now = BEGUN, ORDER, [], NOW
    for what in steps:
        now += timedelta(seconds=1)
        before = payment
        payment, order, events = step(payment, order, what, now)
        told += events
        assert order.status != "cancelled" or "PaymentAuthorized" not in events
        assert payment.state == before.state or payment.state in LEADS_TO[before.state]
        assert before.stripe_id in {None, payment.stripe_id}
        # What the database's own checks say.
        assert (payment.reason is not None) == (payment.state == "failed")
        assert payment.stripe_id is not None or payment.state in {"created", "voided", "failed"}
        assert payment.wanted != "capture" or payment.state == "authorized"
        # Whatever is still to be done has its time, and whatever is wanted at Stripe has an id there or is looked up.
        assert payment.due_at is not None or payment.wanted is None
        assert payment.is_open <= (payment.due_at is not None)
        if isinstance(what, Taken | GivenBack) and payment.state in {"captured", "refunded"} and payment.wanted is None:
            assert payment.due_at is None
    counted = Counter(told)
    assert max(counted.values(), default=0) <= 1
    assert not ({"PaymentCreated", "PaymentVoided"} <= counted.keys())
    assert not ({"PaymentFailed", "PaymentVoided"} <= counted.keys())
    assert not ({"PaymentFailed", "PaymentCreated"} <= counted.keys())
    assert ("PaymentVoided" in counted) == (payment.state == "voided")
    assert ("PaymentRefunded" in counted) == (payment.state == "refunded")
    if "PaymentCreated" in counted:
        assert "PaymentAuthorized" in counted
        assert payment.state in {"captured", "refunded"}


@given(st.lists(STEPS, max_size=10), st.sampled_from(["held", "taken", "nothing"]))
def test_once_given_up_nothing_is_left_at_stripe(steps: list[Finding | str], at_stripe: str) -> None:
    """From wherever it is, a payment whose order ended leads to nothing held and nothing taken."""
    payment, order, now = BEGUN, ORDER, NOW
    for what in steps:
        now += timedelta(seconds=1)
        payment, order, _ = step(payment, order, what, now)
    payment, order, _ = step(payment, order, "cancel order", now)
    if payment.state in {"voided", "failed", "refunded"} and payment.wanted is None:
        return
    if payment.state == "captured":
        at_stripe = "taken"
    # Stripe from here on: it does what is asked and says what it did.
    for _ in range(6):
        now += timedelta(seconds=1)
        if payment.wanted == "void" and at_stripe == "held":
            at_stripe = "nothing"
        if payment.wanted == "refund" and at_stripe == "taken":
            at_stripe = "given back"
        findings: dict[str, Finding] = {
            "held": Authorized("pi_1"),
            "taken": Taken("pi_1"),
            "given back": GivenBack("pi_1"),
            "nothing": Released("pi_1"),
        }
        payment, order, _ = step(payment, order, findings[at_stripe], now)
    assert (payment.wanted, payment.due_at) == (None, None)
    assert payment.state in {"voided", "failed", "refunded"}
    assert at_stripe in {"nothing", "given back"}
