"""Rules that several services share: what the operator decides for the whole marketplace, and limits of prices."""

from typing import Annotated, Final

import msgspec

from admitone.kernel.settings import Variable

# Currencies whose minor unit is a hundredth and whose smallest charge at Stripe is at most 0.50.
# Source: ISO 4217 minor units; Stripe, "Supported currencies", minimum charge amounts.
CURRENCIES: Final = frozenset({"aud", "cad", "chf", "eur", "gbp", "nzd", "sgd", "usd"})

# Stripe's smallest charge in these currencies, and the largest that its eight digits allow.
SMALLEST_CENTS: Final = 50
LARGEST_CENTS: Final = 99_999_999


class MarketplacePolicy(msgspec.Struct, frozen=True):
    """How long a purchase holds a ticket, and the currency of every price."""

    hold_seconds: Annotated[int, Variable("ADMITONE_ORDER_WINDOW_SECONDS", 1, 86_400)] = 900
    currency: Annotated[str, Variable("ADMITONE_CURRENCY", choices=CURRENCIES)] = "usd"
