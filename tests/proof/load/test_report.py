"""The figures of a measurement."""

import pytest

from proof.load.generator import Measured
from proof.load.report import Report
from proof.load.soak import median_between


def test_a_measured_row_has_rate_quantiles_and_responses(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.add_measured("reserve", Measured(2.0, latencies_ms={201: [1.0, 2.5], 400: [3.0]}), sold="all")
    assert report.figures["reserve"] == {
        "per_second": 1.5, "p50_ms": 2.5, "p99_ms": 3.0, "responses": "2x201 1x400", "sold": "all",
    }  # fmt: skip
    assert capsys.readouterr().out.split() == [
        *("reserve", "per_second", "1.5", "p50_ms", "2.5", "p99_ms", "3", "responses", "2x201", "1x400"),
        *("sold", "all"),
    ]


def test_a_median_is_that_of_its_span() -> None:
    samples = [(0.0, 9.0), (1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (4.0, 9.0)]
    assert median_between(samples, 1.0, 3.0) == pytest.approx(2.0)
