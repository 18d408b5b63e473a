"""What the marketplace's processes use, and whether other programs used the machine meanwhile (Linux)."""

import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

NOISY_FROM: Final = 0.1
# The kernel counts hundredths of a second: a shorter time, as between rows printed together, says nothing.
_SECONDS_MIN: Final = 0.5


@dataclass(frozen=True)
class Usage:
    """What a process uses, or several together."""

    memory_mb: float = 0.0
    cpu_seconds: float = 0.0
    descriptors: int = 0

    @classmethod
    def of(cls, pid: int) -> "Usage":
        """Read one process's usage. Source: proc(5), stat and fd."""
        folder = Path(f"/proc/{pid}")
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        return cls(
            memory_mb=int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
            # Including that of its children that have ended: PostgreSQL has many.
            cpu_seconds=sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"),
            descriptors=sum(1 for _ in (folder / "fd").iterdir()),
        )

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.memory_mb + other.memory_mb, self.cpu_seconds + other.cpu_seconds, self.descriptors + other.descriptors
        )


def usage_by_program(pid: int) -> dict[str, Usage]:
    """Return the usage of a marketplace's process and everything below it, by program."""
    found: dict[str, Usage] = {}
    for each in _descendants(pid):
        try:
            name = "admitone" if each == pid else _program(each)
            found[name] = found.get(name, Usage()) + Usage.of(each)
        except OSError:
            continue  # it ended meanwhile
    return found


def _descendants(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return
    for child in chain.from_iterable(children):
        yield from _descendants(int(child))


def _program(pid: int) -> str:
    """Return postgres, nats, sandbox, or the command line of anything else."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    # PostgreSQL first: its processes' titles name a database, which may be called like another program.
    return next((name for name in ("postgres", "nats", "sandbox") if name in command), command)


class Noise:
    """Compares what all processors did with what the marketplace and the load generator did."""

    def __init__(self, pid: int) -> None:
        self._cpu_seconds: Callable[[], float] = lambda: sum(
            each.cpu_seconds for each in usage_by_program(pid).values()
        )
        self._before = self._read()

    def share(self) -> float:
        """Return the share of the machine that others used since the last call; 0 if that was only just now."""
        before, self._before = self._before, self._read()
        capacity, busy, own = (now - then for now, then in zip(self._before, before, strict=True))
        return max(0.0, (busy - own) / capacity) if capacity >= _SECONDS_MIN else 0.0

    def _read(self) -> tuple[float, float, float]:
        """Return processor seconds: those there were, those used by anybody, those used by us. Source: proc(5)."""
        fields = [int(each) for each in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
        ticks = os.sysconf("SC_CLK_TCK")
        idle = fields[3] + fields[4]
        generator = sum(
            used.ru_utime + used.ru_stime
            for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
        )
        return sum(fields) / ticks, (sum(fields) - idle) / ticks, self._cpu_seconds() + generator
