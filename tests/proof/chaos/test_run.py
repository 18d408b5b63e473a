"""A short chaos run: real processes, a few faults, and nothing sold twice, lost or charged for nothing."""

import re
from pathlib import Path

import pytest

from proof.chaos.faults import KINDS
from proof.chaos.report import report
from proof.chaos.run import ChaosRun
from proof.chaos.schedule import Planned

BY_NAME = {kind.name: kind for kind in KINDS}
SHORT = (
    ("reset after COMMIT was sent, and it was committed", "orders"),
    ("kill -9 a service", "orders"),
    ("cut the link to NATS", "tickets/nats"),
    ("NATS loses its store", ""),
)


@pytest.mark.proof
@pytest.mark.timeout(240)
async def test_nothing_is_sold_twice_or_lost_while_processes_die(folder: Path) -> None:
    lane = [Planned(0.0, BY_NAME[name], target) for name, target in SHORT]
    outcome = await ChaosRun(7, folder, lambda _: [lane], 60.0, buyers=6, hold_seconds=2).run()
    assert outcome.violations == []
    assert all(finding.holds for finding in outcome.findings)
    assert sum(outcome.struck.values()) + sum(outcome.missed.values()) == len(SHORT)
    assert outcome.kills == 2
    assert outcome.purchases > 0
    assert re.search(r"2 times kill -9", report(outcome))
