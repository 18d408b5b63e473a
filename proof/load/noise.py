"""Whether something else used the machine while we measured: what is not ours nor the load generator's is noise."""

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

NOISY_FROM: Final = 0.1
# The kernel counts in hundredths of a second: of less than this, as between rows printed together, it can say nothing.
_SECONDS_MIN: Final = 0.5


class Noise:
    """Compares what all processors did with what we did, from one look to the next."""

    def __init__(self, ours: Callable[[], float]) -> None:
        """`ours` returns the processor seconds that the marketplace has used so far."""
        self._ours = ours
        self._before = self._look()

    def share(self) -> float:
        """Return which share of the machine others used since the last look; 0 when that was only just now."""
        before, self._before = self._before, self._look()
        capacity, busy, ours = (now - then for now, then in zip(self._before, before, strict=True))
        return max(0.0, (busy - ours) / capacity) if capacity >= _SECONDS_MIN else 0.0

    def _look(self) -> tuple[float, float, float]:
        """Return processor seconds: those there were, those used by anybody, those used by us. Source: proc(5)."""
        fields = [int(each) for each in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
        ticks = os.sysconf("SC_CLK_TCK")
        idle = fields[3] + fields[4]
        generator = sum(
            used.ru_utime + used.ru_stime
            for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
        )
        return sum(fields) / ticks, (sum(fields) - idle) / ticks, self._ours() + generator
