"""The table a run ends with."""

import statistics
from collections.abc import Iterator

from proof.chaos.faults import KINDS
from proof.chaos.run import Outcome


def report(outcome: Outcome) -> str:
    """Return everything a run has seen, as text."""
    return "\n".join(_lines(outcome))


def _lines(outcome: Outcome) -> Iterator[str]:
    yield f"| {'fault':<50} | struck | timed | back after, median |   worst | mark |"
    yield f"|{'-' * 52}|-------:|------:|-------------------:|--------:|-----:|"
    for kind in KINDS:
        if not (count := outcome.struck[kind.name]):
            continue
        seconds = outcome.recoveries[kind.name]
        median = f"{statistics.median(seconds):.2f} s" if seconds else "–"
        worst = f"{max(seconds):.2f} s" if seconds else "–"
        mark = f"{kind.mark_seconds:.0f} s" if kind.mark_seconds else ""
        yield f"| {kind.name:<50} | {count:>6} | {len(seconds):>5} | {median:>18} | {worst:>7} | {mark:>4} |"
    yield ""
    yield "Timed are faults outside of another service's pause; links and the provider may have been broken, too."
    yield from (f"Skipped: {each}" for each in outcome.skipped)
    if outcome.missed or outcome.unplayed:
        yield f"Found nothing to strike: {sum(outcome.missed.values())}; the time was over before: {outcome.unplayed}"
    crowd = outcome.crowd
    assert crowd is not None
    share = 1 - crowd.unanswered / max(crowd.asked, 1)
    answered = sum(count for (_, status), count in crowd.statuses.items() if 0 < status < 500)
    sent = sum(crowd.statuses.values())
    yield f"Seed {outcome.seed}, {outcome.seconds:.0f} s under faults, settled {outcome.settled_seconds:.0f} s after."
    yield f"{sum(outcome.struck.values()):,} faults of {len(+outcome.struck)} kinds, {outcome.kills} times kill -9."
    yield f"{outcome.orders:,} orders, {outcome.purchases:,} purchases, {len(crowd.history):,} answers remembered."
    yield f"{crowd.asked:,} wishes, {share:.2%} answered after two retries at most ({answered:,} of {sent:,} requests)."
    yield f"Looked at what always holds {outcome.looks} times ({outcome.looks_in_vain} times the databases were away)."
    for finding in outcome.findings:
        state = "ok" if finding.holds else "BROKEN"
        broken = f"{len(finding.violations):,} of {finding.checked:,}"
        yield f"{finding.id:<4} {state:<7} {broken:>16}  {finding.description}"
    if outcome.errors:
        yield "What services called an error:"
        yield from (f"  {count:>5} × {said}" for said, count in outcome.errors.most_common(20))
    yield f"Violations: {len(outcome.violations)}"
    yield from (f"  {each}" for each in outcome.violations[:50])
