"""What an invariant is, and what a check finds about one."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from admitone.invariants.snapshot import Snapshot


@dataclass(frozen=True)
class Violation:
    """One thing that violates an invariant; the text is equal in every snapshot, so that snapshots can be compared."""

    subject: str
    problem: str

    def __str__(self) -> str:
        return f"{self.subject} {self.problem}"


@dataclass(frozen=True)
class Finding:
    """The outcome of one invariant: how many things were checked, and which of them violate it."""

    id: str
    description: str
    checked: int
    violations: frozenset[Violation]

    @property
    def holds(self) -> bool:
        return not self.violations

    def samples(self, count_max: int = 5) -> list[str]:
        """Return some of the violations, always the same ones."""
        return sorted(map(str, self.violations))[:count_max]


Checked = tuple[int, Iterable[Violation]]
Check = Callable[[Snapshot], Awaitable[Checked]]


@dataclass(frozen=True)
class Invariant:
    """`settles`: it holds only once the events in progress have been applied."""

    id: str
    description: str
    settles: bool
    check: Check


INVARIANTS: Final[list[Invariant]] = []


def always(invariant_id: str, description: str) -> Callable[[Check], Check]:
    """Declare an invariant that holds at every instant."""
    return _declare(invariant_id, description, settles=False)


def once_settled(invariant_id: str, description: str) -> Callable[[Check], Check]:
    """Declare an invariant that holds once the events in progress have been applied."""
    return _declare(invariant_id, description, settles=True)


def _declare(invariant_id: str, description: str, *, settles: bool) -> Callable[[Check], Check]:
    def declare(check: Check) -> Check:
        INVARIANTS.append(Invariant(invariant_id, description, settles, check))
        INVARIANTS.sort(key=lambda each: int(each.id[1:]))
        return check

    return declare
