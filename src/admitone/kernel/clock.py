"""The process's clocks: wall time for tokens and logs, monotonic time for intervals.

Decisions about orders never use these; they use the database's `instant()` (see `database.py`), so that
two machines with different clocks cannot disagree about a deadline.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

_wall_source: Callable[[], float] = time.time


def now() -> datetime:
    """Return the wall time, in UTC."""
    return datetime.fromtimestamp(_wall_source(), UTC)


def monotonic_seconds() -> float:
    """Return seconds on a clock that never jumps; only differences mean anything."""
    return time.monotonic()


def use_wall_source(source: Callable[[], float]) -> None:
    """Replace the wall clock (seconds since the epoch) for this process; only a simulation does this."""
    global _wall_source  # noqa: PLW0603 – the one seam where a simulated clock enters
    _wall_source = source
