"""The faults of a seed, and how often each struck."""

from collections import Counter
from random import Random
from typing import Final

# Each kind with the chance that it strikes when it can, in a seed that has it.
CHANCES: Final = {
    # the bus
    "message duplicated": 0.15,
    "message reordered": 0.3,
    "message delayed": 0.15,
    "message lost before it was stored": 0.05,
    "message lost after acknowledgement": 0.04,
    "acknowledgement of a publication lost": 0.05,
    "acknowledgement of a delivery lost": 0.08,
    "deliveries lost on their way": 0.05,
    "request to publish again lost": 0.5,
    # processes and databases
    "crash before commit": 0.012,
    "crash after commit": 0.012,
    "crash between publication and mark": 0.02,
    "crash after the provider's response": 0.04,
    "connection lost": 0.003,
    "commit lost": 0.012,
    "commit unknown": 0.015,
    "response lost": 0.06,
    "handler fails": 0.03,
    # the provider
    "provider unreachable": 0.1,
    "provider fails before": 0.08,
    "provider fails after": 0.08,
    "provider times out before": 0.04,
    "provider times out after": 0.06,
    "provider says too many": 0.06,
    "provider is slow": 0.15,
    "provider finds nothing": 0.05,
    "capture refused for good": 0.1,
    "search lags": 0.5,
    "webhook lost": 0.3,
    "webhook late": 0.3,
    "webhook twice": 0.2,
    "hold lost": 0.25,
}
LONG_OUTAGE: Final = "bus away for longer than a hold"
# Faults of a whole machine, which happen now and then; see `run.py`.
DISASTERS: Final = (
    "bus wiped",
    "stream wiped",
    "bus rolled back",
    "bus away",
    LONG_OUTAGE,
    "consumer forgotten",
    "process killed",
    "clock jumps",
    "intents not found",
    "lists fail",
)
# Faults of a whole seed.
SKEW: Final = "clock differs"
TWO_RELEASES: Final = "two releases"
_KINDS: Final = (*CHANCES, *DISASTERS, SKEW, TWO_RELEASES)
# How likely a seed has each kind: in some seeds many things go wrong, in others one thing while all else goes well.
_ARE_ON: Final = (0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.4, 0.5)


class Faults:
    """The kinds a seed has are drawn once; whether one strikes is drawn each time it could."""

    def __init__(self, random: Random) -> None:
        self._random = random
        is_on = random.choice(_ARE_ON)
        kinds = frozenset(kind for kind in _KINDS if random.random() < is_on)
        # A seed without any shows that an order paid in time survives an outage: nothing else delays its payment.
        self.kinds = kinds or frozenset({LONG_OUTAGE})
        self._chances = {kind: CHANCES[kind] * random.choice((0.5, 1.0, 2.0)) for kind in CHANCES if kind in self.kinds}
        self.struck: Counter[str] = Counter()
        self.are_on = True

    def strikes(self, kind: str) -> bool:
        """Decide whether this kind of fault strikes now."""
        chance = self._chances.get(kind)
        if chance is None or not self.are_on or self._random.random() >= chance:
            return False
        self.struck[kind] += 1
        return True

    def has(self, kind: str) -> bool:
        return kind in self.kinds

    def note(self, kind: str) -> None:
        self.struck[kind] += 1
