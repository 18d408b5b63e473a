"""Money: exact in both directions."""

from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from admitone.kernel.money import cents_of


@given(st.decimals(allow_nan=False, allow_infinity=False))
@example(Decimal("1.00000000000000000000000000000000000001"))
@example(Decimal("1E+60"))
def test_no_fraction_of_a_cent_is_rounded_away(amount: Decimal) -> None:
    try:
        cents = cents_of(amount)
    except (ValueError, ArithmeticError):
        return
    assert amount == Decimal(cents) / 100 or abs(cents) > 10**25
