"""The table a run ends with."""

import statistics
from collections.abc import Iterator

from proof.chaos.faults import KINDS
from proof.chaos.run import RunOutcome


def report(outcome: RunOutcome) -> str:
    """Return everything that happened in a run, as text."""
    return "\n".join(_lines(outcome))


def _lines(outcome: RunOutcome) -> Iterator[str]:
    yield f"| {'fault':<50} | struck | timed | recovered, median |   worst | mark |"
    yield f"|{'-' * 52}|-------:|------:|------------------:|--------:|-----:|"
    for kind in KINDS:
        if not (count := outcome.struck[kind.name]):
            continue
        seconds = outcome.recoveries[kind.name]
        median = f"{statistics.median(seconds):.2f} s" if seconds else "–"
        worst = f"{max(seconds):.2f} s" if seconds else "–"
        mark = f"{kind.mark_seconds:.0f} s" if kind.mark_seconds else ""
        yield f"| {kind.name:<50} | {count:>6} | {len(seconds):>5} | {median:>17} | {worst:>7} | {mark:>4} |"
    yield ""
    yield "Timed are faults outside of another service's pause; links and the provider may have been broken, too."
    yield from (f"Skipped: {each}" for each in outcome.skipped)
    if outcome.missed or outcome.unplayed:
        yield f"Found nothing to strike: {outcome.missed.total()}; not reached in time: {outcome.unplayed}"
    history = outcome.history
    share = 1 - history.unanswered / max(history.requests, 1)
    sent = history.statuses.total()
    answered = sum(count for status, count in history.statuses.items() if 0 < status < 500)
    yield f"Seed {outcome.seed}, {outcome.seconds:.0f} s under faults, settled {outcome.settled_seconds:.0f} s after."
    yield f"{outcome.struck.total():,} faults of {len(+outcome.struck)} kinds, {outcome.kills} times kill -9."
    yield f"{outcome.orders:,} orders, {outcome.purchases:,} purchases, {len(history.records):,} records of clients."
    yield f"{history.requests:,} requests, {share:.2%} answered within two retries ({answered:,} of {sent:,} sent)."
    yield f"Checked what always holds {outcome.checks} times; {outcome.failed_checks} times a database was unreachable."
    for finding in outcome.findings:
        state = "ok" if finding.holds else "BROKEN"
        broken = f"{len(finding.violations):,} of {finding.checked:,}"
        yield f"{finding.id:<4} {state:<7} {broken:>16}  {finding.description}"
    if outcome.errors:
        yield "Logged as errors:"
        yield from (f"  {count:>5} × {message}" for message, count in outcome.errors.most_common(20))
    yield f"Violations: {len(outcome.violations)}"
    yield from (f"  {each}" for each in outcome.violations[:50])
