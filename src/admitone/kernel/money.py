"""Money: whole minor units internally, exact decimals externally; never a float."""

from decimal import Decimal


def decimal_of(cents: int) -> Decimal:
    """Return minor units as an exact decimal with two places: 1999 → 19.99."""
    return Decimal(cents).scaleb(-2)


def cents_of(amount: Decimal) -> int:
    """Return an exact amount in minor units; raises ValueError if it has more than two decimals."""
    # Compared with the exact amount, because arithmetic rounds to 28 digits.
    exact = amount.quantize(Decimal("0.01"))
    if exact != amount:
        raise ValueError("more than two decimals")
    return int(exact.scaleb(2))
