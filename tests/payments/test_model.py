"""The rules of a payment, for every order in which results and events can arrive."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from admitone.events import PaymentAuthorized, PaymentFailed
from admitone.payments.model import (
    Authorized,
    Canceled,
    Captured,
    CaptureRefused,
    Declined,
    IntentNotFound,
    OrderReplica,
    Payment,
    ProviderResult,
    Refunded,
    RequiresAction,
    Unknown,
)
from tests.payments.examples import BEGUN, NOW, ORDER

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

RESULTS: Final[list[ProviderResult]] = [
    Authorized("pi_1"),
    RequiresAction("pi_1", "pi_1_secret", "https://bank.example/"),
    Captured("pi_1"),
    CaptureRefused("pi_1", "status_transition_invalid"),
    Refunded("pi_1"),
    Declined("card_declined", "Your card was declined.", "pi_1"),
    Declined("token_invalid", "The payment provider refused the request"),
    Canceled("pi_1"),
    IntentNotFound(),
    Unknown("TimeoutError"),
]
STEPS: Final = st.sampled_from([*RESULTS, "capture", "cancel", "cancel order", "lease"])


def step(
    payment: Payment, order: OrderReplica, what: ProviderResult | str, now: datetime
) -> tuple[Payment, OrderReplica, list[str]]:
    match what:
        case "capture":
            return payment.capture(now), msgspec.structs.replace(order, status="awaiting:payment"), []
        case "cancel":
            return payment.cancel(now), order, []
        case "cancel order":
            return payment.cancel(now), msgspec.structs.replace(order, status="cancelled"), []
        case "lease":
            due_at = now + timedelta(seconds=30)
            return msgspec.structs.replace(payment, due_at=due_at, tries=payment.tries + 1), order, []
        case _:
            assert not isinstance(what, str)
            after, events = payment.apply(what, order, now, is_last_attempt=True)
            return after, order, [type(event).__name__ for event in events]


@given(st.lists(STEPS, max_size=14))
def test_a_payment_only_moves_forward_and_publishes_each_fact_once(steps: list[ProviderResult | str]) -> None:
    payment, order, published, now = BEGUN, ORDER, [], NOW
    for what in steps:
        now += timedelta(seconds=1)
        before = payment
        payment, order, events = step(payment, order, what, now)
        published += events
        assert order.status != "cancelled" or "PaymentAuthorized" not in events
        assert payment.state == before.state or payment.state in LEADS_TO[before.state]
        assert before.stripe_id in {None, payment.stripe_id}
        # The constraints of the database.
        assert (payment.reason is not None) == (payment.state == "failed")
        assert payment.stripe_id is not None or payment.state in {"created", "voided", "failed"}
        assert payment.wanted != "capture" or payment.state == "authorized"
        # What must still be done is due at some time.
        assert payment.due_at is not None or payment.wanted is None
        assert payment.is_open <= (payment.due_at is not None)
        if (
            isinstance(what, Captured | Refunded)
            and payment.state in {"captured", "refunded"}
            and payment.wanted is None
        ):
            assert payment.due_at is None
    counted = Counter(published)
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
def test_a_cancelled_payment_leaves_nothing_at_stripe(steps: list[ProviderResult | str], at_stripe: str) -> None:
    """From any state, a payment whose order ended leads to nothing held and nothing taken."""
    payment, order, now = BEGUN, ORDER, NOW
    for what in steps:
        now += timedelta(seconds=1)
        payment, order, _ = step(payment, order, what, now)
    payment, order, _ = step(payment, order, "cancel order", now)
    if payment.state in {"voided", "failed", "refunded"} and payment.wanted is None:
        return
    if payment.state == "captured":
        at_stripe = "taken"
    # From here on Stripe does what is requested and reports what it did.
    for _ in range(6):
        now += timedelta(seconds=1)
        if payment.wanted == "void" and at_stripe == "held":
            at_stripe = "nothing"
        if payment.wanted == "refund" and at_stripe == "taken":
            at_stripe = "returned"
        results: dict[str, ProviderResult] = {
            "held": Authorized("pi_1"),
            "taken": Captured("pi_1"),
            "returned": Refunded("pi_1"),
            "nothing": Canceled("pi_1"),
        }
        payment, order, _ = step(payment, order, results[at_stripe], now)
    assert (payment.wanted, payment.due_at) == (None, None)
    assert payment.state in {"voided", "failed", "refunded"}
    assert at_stripe in {"nothing", "returned"}


@pytest.mark.parametrize(
    "result", [IntentNotFound(), Declined("refused", "The payment provider refused the request"), Unknown("a reason")]
)
@pytest.mark.parametrize("state", ["requires_action", "authorized", "captured", "failed"])
def test_what_is_wanted_at_stripe_is_only_dropped_when_stripe_shows_it_done(state: Any, result: ProviderResult) -> None:
    wanted = "refund" if state == "captured" else "void"
    reason = "The card was refused" if state == "failed" else None
    payment = msgspec.structs.replace(BEGUN, state=state, stripe_id="pi_1", wanted=wanted, reason=reason)
    after, _ = payment.apply(result, ORDER, NOW, is_last_attempt=False)
    assert after.wanted == wanted
    assert after.due_at is not None


@pytest.mark.parametrize(
    ("seconds_left", "checked_after"), [(900, 60), (65, 55), (40, 30), (10, 7), (9, 6), (3, 60), (-5, 60)]
)
def test_a_payment_that_waits_for_its_buyer_is_checked_before_its_order_ends(
    seconds_left: int, checked_after: int
) -> None:
    order = msgspec.structs.replace(ORDER, expires_at=NOW + timedelta(seconds=seconds_left))
    waiting, _ = BEGUN.apply(RequiresAction("pi_1", "secret", None), order, NOW, is_last_attempt=False)
    assert waiting.due_at == NOW + timedelta(seconds=checked_after)


REFUSED: Final = CaptureRefused("pi_1", "status_transition_invalid")
AWAITING: Final = msgspec.structs.replace(ORDER, status="awaiting:payment")


def given_up() -> Payment:
    """Return a payment whose capture Stripe refused too often."""
    payment = msgspec.structs.replace(BEGUN, state="authorized", stripe_id="pi_1").capture(NOW)
    for _ in range(8):
        payment, _ = payment.apply(REFUSED, AWAITING, NOW, is_last_attempt=False)
    return payment


def test_a_capture_that_is_refused_for_good_fails_once_nothing_is_held() -> None:
    payment = given_up()
    assert (payment.state, payment.wanted) == ("authorized", "void")
    still_held, events = payment.apply(Authorized("pi_1"), AWAITING, NOW, is_last_attempt=False)
    assert (still_held.state, events) == ("authorized", [])
    failed, events = payment.apply(Canceled("pi_1"), AWAITING, NOW, is_last_attempt=False)
    assert (failed.state, failed.wanted, failed.reason_code) == ("failed", None, "status_transition_invalid")
    assert [type(event).__name__ for event in events] == ["PaymentFailed"]


def test_unknown_outcomes_of_a_capture_are_no_refusals() -> None:
    payment = msgspec.structs.replace(BEGUN, state="authorized", stripe_id="pi_1").capture(NOW)
    for _ in range(100):
        payment, _ = payment.apply(Unknown("TimeoutError"), AWAITING, NOW, is_last_attempt=False)
    assert (payment.state, payment.wanted) == ("authorized", "capture")


def test_a_capture_that_takes_effect_while_it_is_given_up_completes_the_order() -> None:
    captured, events = given_up().apply(Captured("pi_1"), AWAITING, NOW, is_last_attempt=False)
    assert (captured.state, captured.wanted) == ("captured", None)
    assert [type(event).__name__ for event in events] == ["PaymentCreated"]


def test_a_capture_that_is_given_up_for_a_cancelled_order_is_a_void() -> None:
    cancelled = msgspec.structs.replace(ORDER, status="cancelled")
    voided, events = given_up().cancel(NOW).apply(Canceled("pi_1"), cancelled, NOW, is_last_attempt=False)
    assert (voided.state, [type(event).__name__ for event in events]) == ("voided", ["PaymentVoided"])


def test_a_payment_that_its_order_awaits_fails_the_order_if_the_provider_holds_nothing() -> None:
    awaited = msgspec.structs.replace(ORDER, version=1, status="awaiting:payment")
    failed, events = BEGUN.apply(IntentNotFound(), awaited, NOW, is_last_attempt=False)
    assert failed.state == "failed"
    assert [type(event) for event in events] == [PaymentFailed]
    held, events = BEGUN.apply(Authorized("pi_1"), awaited, NOW, is_last_attempt=False)
    assert (held.state, held.wanted) == ("authorized", "capture")
    assert [type(event) for event in events] == [PaymentAuthorized]
