"""What the marketplace's processes use (Linux)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path


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
