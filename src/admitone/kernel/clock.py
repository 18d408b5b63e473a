"""The clocks of this process: wall time for tokens and logs, monotonic time for intervals.

Decisions that must agree between machines use the database's clock instead (`instant()` in SQL, `Transaction.now`).
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

_wall_source: Callable[[], float] = time.time
_monotonic_source: Callable[[], float] = time.monotonic


def now() -> datetime:
    """Return the wall time, in UTC."""
    return datetime.fromtimestamp(_wall_source(), UTC)


def monotonic_seconds() -> float:
    """Return seconds on a clock that never jumps; only differences have a meaning."""
    return _monotonic_source()


def use_sources(wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
    """Replace both clocks (seconds since the epoch, seconds) of this process; only the simulation does this."""
    global _wall_source, _monotonic_source
    _wall_source, _monotonic_source = wall, monotonic
