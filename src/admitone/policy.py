"""Settings that several services share: what the operator decides for the whole marketplace."""

from typing import Annotated

import msgspec

from admitone.kernel.money import CURRENCIES
from admitone.kernel.settings import Variable


class MarketplacePolicy(msgspec.Struct, frozen=True):
    """How long a purchase holds a ticket, and the currency of every price."""

    hold_seconds: Annotated[int, Variable("ADMITONE_ORDER_WINDOW_SECONDS", 1, 86_400)] = 900
    currency: Annotated[str, Variable("ADMITONE_CURRENCY", choices=CURRENCIES)] = "usd"
