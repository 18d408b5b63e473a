"""The plan of a run: which fault strikes when, drawn from one seed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from proof.chaos.faults import KINDS, Kind, Lane

_FULL_MINUTES: Final = 8.0
# How many faults of a lane may strike at once: a fault of a link leaves most of the marketplace well.
_WORKERS: Final[Mapping[Lane, int]] = {"strikes": 1, "links": 3, "provider": 1, "long": 2}


@dataclass(frozen=True)
class Planned:
    """A fault that begins so many seconds after the run, or as soon as the one before it in its lane is over."""

    at_seconds: float
    kind: Kind
    target: str


def draw(seed: int, minutes: float, means: Collection[str]) -> list[list[Planned]]:
    """Return the lanes of a run, each in order; `means` are the special ones this machine has."""
    random = Random(seed)
    lanes = []
    for lane, workers in _WORKERS.items():
        faults: list[tuple[Kind, str]] = []
        for kind in KINDS:
            if kind.lane == lane and (not kind.needs or kind.needs in means):
                faults += _of_kind(kind, max(1, round(kind.often * minutes / _FULL_MINUTES)), random)
        random.shuffle(faults)
        for worker in range(workers):
            own = faults[worker::workers]
            step_seconds = minutes * 60 / max(len(own), 1)
            lanes.append(
                [
                    Planned((number + random.uniform(0.0, 0.6)) * step_seconds, kind, target)
                    for number, (kind, target) in enumerate(own)
                ]
            )
    return lanes


def _of_kind(kind: Kind, count: int, random: Random) -> list[tuple[Kind, str]]:
    """Return every target in random order; none is struck twice before all were struck once."""
    targets: list[str] = []
    while len(targets) < count:
        targets += random.sample(list(kind.targets), len(kind.targets))
    return [(kind, target) for target in targets[:count]]
