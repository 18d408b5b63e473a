"""Which requests may begin a payment, and what the others get."""

from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import msgspec
import pytest

from admitone.kernel import ids
from admitone.kernel.errors import IdempotencyKeyReused, Refusal
from admitone.payments.beginning import (
    Begun,
    NoAttemptsLeft,
    NoSuchOrder,
    NotYourOrder,
    OrderHasExpired,
    OrderIsCancelled,
    PaymentInProgress,
    PaymentRequest,
    begin_payment,
)
from admitone.payments.model import OrderReplica, Payment
from tests.payments.examples import BEGUN, NOW, ORDER

REQUEST: Final = PaymentRequest(ids.new_id(), ORDER.id, ORDER.buyer_id, "tok_mastercard", None)
KEYED: Final = replace(REQUEST, idempotency_key="a-key")


def attempt(**changes: Any) -> Payment:
    """An earlier payment, of this order unless it is changed."""
    return msgspec.structs.replace(BEGUN, id=ids.new_id(), **changes)


def begun(
    request: PaymentRequest, order: OrderReplica | None, *known: Payment, now: datetime = NOW, attempts_max: int = 3
) -> Begun | type[Refusal]:
    try:
        return begin_payment(request, order, known, attempts_max, now)
    except Refusal as refusal:
        return type(refusal)


def test_a_first_payment_begins_with_the_price_of_its_order() -> None:
    result = begun(KEYED, ORDER)
    assert isinstance(result, Begun)
    assert result.kind == "new"
    payment = result.payment
    assert (payment.id, payment.order_id, payment.buyer_id) == (KEYED.payment_id, ORDER.id, ORDER.buyer_id)
    assert (payment.amount_cents, payment.currency, payment.attempt) == (1999, "usd", 1)
    assert (payment.token, payment.idempotency_key) == ("tok_mastercard", "a-key")
    assert (payment.state, payment.wanted, payment.created_at) == ("created", None, NOW)
    assert payment.due_at is not None
    assert payment.due_at > NOW


@pytest.mark.parametrize(
    ("request_", "order", "known", "refusal"),
    [
        (REQUEST, None, [], NoSuchOrder),
        (replace(REQUEST, buyer_id=ids.new_id()), ORDER, [], NotYourOrder),
        (REQUEST, msgspec.structs.replace(ORDER, status="cancelled"), [], OrderIsCancelled),
        (REQUEST, msgspec.structs.replace(ORDER, expires_at=NOW), [], OrderHasExpired),
        (REQUEST, msgspec.structs.replace(ORDER, status="awaiting:payment"), [], OrderHasExpired),
        (REQUEST, ORDER, [attempt(state="failed")] * 3, NoAttemptsLeft),
        (REQUEST, ORDER, [attempt()], PaymentInProgress),
        (REQUEST, ORDER, [attempt(state="authorized")], PaymentInProgress),
        (REQUEST, ORDER, [attempt(state="captured")], PaymentInProgress),
        (KEYED, ORDER, [attempt(idempotency_key="a-key")], IdempotencyKeyReused),
        (KEYED, ORDER, [attempt(idempotency_key="a-key", order_id=ids.new_id())], IdempotencyKeyReused),
    ],
)
def test_a_payment_that_may_not_begin_is_refused(
    request_: PaymentRequest, order: OrderReplica | None, known: list[Payment], refusal: type[Refusal]
) -> None:
    assert begun(request_, order, *known) is refusal


@pytest.mark.parametrize(
    ("request_", "known"),
    [
        (REQUEST, attempt(token="tok_mastercard")),
        (REQUEST, attempt(token="tok_mastercard", state="authorized", wanted="capture")),
        (KEYED, attempt(token="tok_mastercard", idempotency_key="a-key", state="failed")),
        (KEYED, attempt(token="tok_mastercard", idempotency_key="a-key", state="voided")),
    ],
)
def test_a_repeated_request_gets_the_payment_that_it_began(request_: PaymentRequest, known: Payment) -> None:
    assert begun(request_, ORDER, known) == Begun(known, "repeated")
    assert begun(request_, msgspec.structs.replace(ORDER, status="cancelled"), known) == Begun(known, "repeated")


def test_another_card_voids_a_payment_that_waits_for_its_buyer() -> None:
    waiting = attempt(state="requires_action", stripe_id="pi_1")
    result = begun(REQUEST, ORDER, waiting)
    assert isinstance(result, Begun)
    assert (result.kind, result.payment.id, result.payment.wanted) == ("blocking", waiting.id, "void")
    assert begun(REQUEST, ORDER, result.payment) == result


@pytest.mark.parametrize("states", [["failed", "failed"], ["voided", "voided", "voided", "failed", "failed"]])
def test_voided_attempts_do_not_count(states: list[Any]) -> None:
    result = begun(REQUEST, ORDER, *(attempt(state=state) for state in states))
    assert isinstance(result, Begun)
    assert (result.kind, result.payment.attempt) == ("new", len(states) + 1)
