"""The plan of a run: which fault comes when, drawn from one seed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from proof.chaos.faults import KINDS, Kind, Lane

_FULL_MINUTES: Final = 8.0
# How many times a lane is worked on at once: a fault of a link leaves most of the marketplace well.
_WORKERS: Final[Mapping[Lane, int]] = {"blows": 1, "links": 3, "provider": 1, "long": 2}


@dataclass(frozen=True)
class Planned:
    """A fault that begins so many seconds after the run, or as soon as the one before it in its lane is over."""

    at_seconds: float
    kind: Kind
    target: str


def drawn(seed: int, minutes: float, can: Collection[str]) -> list[list[Planned]]:
    """Return the lanes of a run, each in order; `can` says which of the special means this machine has."""
    random = Random(seed)
    lanes = []
    for lane, workers in _WORKERS.items():
        faults: list[tuple[Kind, str]] = []
        for kind in KINDS:
            if kind.lane == lane and (not kind.needs or kind.needs in can):
                faults += _of_kind(kind, max(1, round(kind.often * minutes / _FULL_MINUTES)), random)
        random.shuffle(faults)
        for worker in range(workers):
            mine = faults[worker::workers]
            step = minutes * 60 / max(len(mine), 1)
            lanes.append(
                [
                    Planned((number + random.uniform(0.0, 0.6)) * step, kind, target)
                    for number, (kind, target) in enumerate(mine)
                ]
            )
    return lanes


def _of_kind(kind: Kind, count: int, random: Random) -> list[tuple[Kind, str]]:
    """Every target in turn, in an order of the dice: none is struck twice before all were struck once."""
    targets: list[str] = []
    while len(targets) < count:
        targets += random.sample(list(kind.targets), len(kind.targets))
    return [(kind, target) for target in targets[:count]]
