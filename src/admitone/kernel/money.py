"""Money: whole minor units and a currency inside, an exact decimal outside; no float anywhere."""

from decimal import Decimal
from typing import Final

# Only currencies whose minor unit is a hundredth and whose smallest charge at Stripe is 0.50 or less.
# Source: ISO 4217 minor units; Stripe, "Supported currencies", minimum charge amounts.
CURRENCIES: Final = frozenset({"aud", "cad", "chf", "eur", "gbp", "nzd", "sgd", "usd"})

# Stripe's smallest charge in its main currencies, and its eight-digit limit.
SMALLEST_CENTS: Final = 50
LARGEST_CENTS: Final = 99_999_999


def decimal_of(cents: int) -> Decimal:
    """Return minor units as an exact decimal with two places: 1999 → 19.99."""
    return Decimal(cents).scaleb(-2)


def cents_of(amount: Decimal) -> int:
    """Return an exact amount in minor units; raises ValueError when it has more than two decimals."""
    # Compared with the exact amount: arithmetic alone would round its thirtieth digit away before anybody looks.
    exact = amount.quantize(Decimal("0.01"))
    if exact != amount:
        raise ValueError("more than two decimals")
    return int(exact.scaleb(2))
