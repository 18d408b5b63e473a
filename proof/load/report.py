"""The table that a measurement prints as it goes."""

from collections import Counter
from typing import Any

from proof.load.generator import Measured


class Report:
    """Rows of figures, printed as they come."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}

    def add(self, name: str, **figures: float | str) -> None:
        self.figures[name] = figures
        print(f"{name:<34} {'  '.join(f'{key} {_text(value)}' for key, value in figures.items())}", flush=True)

    def add_measured(self, name: str, run: Measured, **more: float | str) -> None:
        self.add(
            name,
            per_second=run.per_second,
            p50_ms=run.quantile_ms(0.5),
            p99_ms=run.quantile_ms(0.99),
            responses=counted(run.statuses),
            **more,
        )


def counted(counts: Counter[int]) -> str:
    """Return how often each number was counted: `2x201 1x400`."""
    return " ".join(f"{count}x{number}" for number, count in sorted(counts.items()))


def _text(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.4g}" if value % 1 else f"{value:,.0f}"
