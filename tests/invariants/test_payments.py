"""The invariants of money."""

import msgspec
import pytest

from tests.invariants.support import Copies


@pytest.mark.parametrize(
    "change", ["amount_cents = amount_cents + 1", "currency = 'eur'", "buyer_id = gen_random_uuid()"]
)
async def test_i2_a_charge_that_does_not_match_its_order(change: str, copies: Copies) -> None:
    await copies.damage("payments", f"UPDATE payment SET {change}")
    assert "I2" in await copies.violated()


async def test_i2_a_charge_at_the_provider_for_a_cancelled_order(copies: Copies) -> None:
    order = copies.trade.cancelled.order
    copies.intents = [*copies.intents, msgspec.structs.replace(copies.intents[0], order_id=order)]
    findings = await copies.check()
    assert f"order {order}, which is cancelled" in findings["I2"].samples()[0]


@pytest.mark.parametrize("left_cents", [1, 0])
async def test_i2_a_refund_in_the_providers_dashboard_is_no_violation(copies: Copies, left_cents: int) -> None:
    [intent] = [each for each in copies.intents if each.taken_cents]
    refunded_cents = intent.taken_cents - left_cents
    changed = msgspec.structs.replace(intent, taken_cents=left_cents, refunded_cents=refunded_cents)
    copies.intents = [changed if each is intent else each for each in copies.intents]
    state = "captured" if left_cents else "refunded"
    await copies.damage(
        "payments",
        "UPDATE payment SET state = $1, refunded_cents = $2 WHERE id = $3",
        *(state, refunded_cents, intent.payment_id),
    )
    assert await copies.violated() == set()


async def test_i3_an_order_charged_twice(copies: Copies) -> None:
    copies.intents = [*copies.intents, msgspec.structs.replace(copies.intents[0], id="pi_again")]
    assert await copies.violated() == {"I3"}


async def test_i4_a_complete_order_without_a_payment(copies: Copies) -> None:
    await copies.damage("payments", "UPDATE payment SET state = 'voided'")
    assert "I4" in await copies.violated()


async def test_i4_a_complete_order_for_which_the_provider_took_nothing(copies: Copies) -> None:
    copies.intents = []
    assert await copies.violated() == {"I4"}


async def test_i5_an_authorisation_left_open(copies: Copies) -> None:
    left_open = msgspec.structs.replace(copies.intents[0], id="pi_open", status="requires_capture", taken_cents=0)
    copies.intents = [*copies.intents, left_open]
    assert await copies.violated() == {"I5"}
