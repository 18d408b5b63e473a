"""The table that a benchmark prints as it goes."""

from typing import Any

from proof.load.generator import Measured
from proof.load.noise import NOISY_FROM, Noise


class Report:
    """Rows of figures, printed as they come; a measured one says when something else used the machine meanwhile."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.noise: Noise | None = None

    def add(self, name: str, unit: str = "", /, **figures: float | str) -> None:
        self.figures[name] = figures
        shown = "  ".join(f"{key} {_shown(value)}" for key, value in figures.items())
        print(f"{name:<34} {shown} {unit}", flush=True)

    def measured(self, name: str, run: Measured, **more: float | str) -> None:
        statuses = " ".join(f"{count}x{status}" for status, count in sorted(run.statuses.items()))
        if self.noise is not None and (others := self.noise.share()) >= NOISY_FROM:
            more["noisy"] = f"others used {others:.0%} of the machine"
        self.add(
            name,
            per_second=run.per_second,
            p50_ms=run.quantile_ms(0.5),
            p99_ms=run.quantile_ms(0.99),
            answers=statuses,
            **more,
        )


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.4g}" if value % 1 else f"{value:,.0f}"
