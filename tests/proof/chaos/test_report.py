"""The table a chaos run ends with."""

from proof.chaos.report import report
from proof.chaos.run import RunOutcome


def outcome() -> RunOutcome:
    made = RunOutcome(5, seconds=60.0, kills=2)
    made.struck["kill -9 a service"] = 2
    made.recoveries["kill -9 a service"] = [1.0, 2.0]
    return made


def test_each_kind_that_struck_has_a_line_with_its_recoveries() -> None:
    [line] = [each for each in report(outcome()).splitlines() if "kill -9 a service" in each]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == ["2", "2", "1.50 s", "2.00 s", "3 s"]


def test_a_quiet_run_has_no_violations() -> None:
    assert "2 faults of 1 kinds, 2 times kill -9." in report(outcome())
    assert report(outcome()).endswith("Violations: 0")


def test_what_was_skipped_or_violated_is_listed() -> None:
    broken = outcome()
    broken.skipped.append("wrong clocks: no library")
    broken.violations.append("I1: a ticket has 2 orders")
    lines = report(broken).splitlines()
    assert "Skipped: wrong clocks: no library" in lines
    assert lines[-2:] == ["Violations: 1", "  I1: a ticket has 2 orders"]
