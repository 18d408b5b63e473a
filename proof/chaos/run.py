"""One run: people trade, lanes of faults strike, the checker looks again and again; then all is healed and judged."""

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import asyncpg

from admitone import registry
from admitone.invariants import Finding, Violation, check, check_always
from proof.chaos.detour import LIBFAKETIME
from proof.chaos.faults import Ground, Kind
from proof.chaos.people import Crowd
from proof.chaos.probes import AWAY, NeverCameBack, Probes
from proof.chaos.schedule import Planned, drawn
from proof.chaos.stack import Stack

WINDOW_SECONDS: Final = 20
_SELLERS: Final = 8
_BUYERS: Final = 28
_LOOK_EVERY_SECONDS: Final = 10.0
# The longest pause between two tries to settle a payment is 60 s, and one lease of 30 s may have to run out before.
_SETTLE_SECONDS: Final = 150.0


@dataclass
class Outcome:
    """What a run has seen."""

    seed: int
    seconds: float = 0.0
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """How long until all worked again, of those faults during which nobody else stood still."""
    struck: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    """Faults that found nothing to strike, such as a commit to break."""
    unplayed: int = 0
    kills: int = 0
    looks: int = 0
    looks_in_vain: int = 0
    purchases: int = 0
    orders: int = 0
    settled_seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    findings: Sequence[Finding] = ()
    skipped: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    crowd: Crowd | None = None


Say = Callable[[str], None]


@dataclass
class Run:
    """A run on a folder of its own."""

    seed: int
    folder: Path
    plan: Callable[[set[str]], list[list[Planned]]]
    seconds: float
    say: Say = lambda text: print(text, file=sys.stderr, flush=True)
    buyers: int = _BUYERS
    window_seconds: int = WINDOW_SECONDS

    async def outcome(self) -> Outcome:
        """Live it through."""
        stack = Stack(self.folder, self.window_seconds)
        crowd = Crowd(stack.port, Random(self.seed))
        outcome = Outcome(self.seed, crowd=crowd)
        try:
            await stack.open()
            await crowd.gather(_SELLERS + self.buyers)
            probes = await Probes.begun(stack, crowd)
            await self._break(stack, crowd, probes, outcome)
            await self._judge(stack, crowd, outcome)
        finally:
            crowd.close()
            await stack.close()
        return outcome

    def _means(self, stack: Stack) -> set[str]:
        outcome = set(stack.disks)
        if LIBFAKETIME:
            outcome.add("clocks")
        else:
            stack.skipped.append("wrong clocks: there is no libfaketime (Debian: apt-get install faketime)")
        return outcome

    async def _break(self, stack: Stack, crowd: Crowd, probes: Probes, outcome: Outcome) -> None:
        """Let people trade while the faults strike."""
        lanes = self.plan(self._means(stack))
        outcome.skipped = stack.skipped
        began = time.monotonic()
        trading = asyncio.create_task(crowd.trade(_SELLERS))
        looking = asyncio.create_task(self._look(stack, outcome))
        ground = Ground(stack, probes, Random(self.seed))
        striking = [asyncio.create_task(self._strike(ground, lane, began, outcome)) for lane in lanes]
        try:
            done = asyncio.ensure_future(asyncio.gather(*striking))
            endings: list[asyncio.Future[Any]] = [done, trading, looking]
            # The other two never end by themselves: when one does, it is a mistake of ours.
            finished, _ = await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
            for each in finished:
                each.result()
            outcome.seconds = time.monotonic() - began
            stack.heal()
            crowd.is_over = True
            await trading
        finally:
            for task in (trading, looking, *striking):
                task.cancel()
            await asyncio.gather(trading, looking, *striking, return_exceptions=True)

    async def _strike(self, ground: Ground, lane: Sequence[Planned], began: float, outcome: Outcome) -> None:
        for number, each in enumerate(lane):
            await asyncio.sleep(max(0.0, began + each.at_seconds - time.monotonic()))
            at = time.monotonic() - began
            if at > self.seconds:
                outcome.unplayed += len(lane) - number
                return
            await self._one(ground, each.kind, each.target, at, outcome)

    async def _one(self, ground: Ground, kind: Kind, target: str, at: float, outcome: Outcome) -> None:
        is_alone, pauses = ground.paused == 0, ground.pauses
        try:
            struck = await kind.strike(ground, target)
        except NeverCameBack:
            outcome.violations.append(f"{kind.name} ({target}) at {at:.0f} s: it did not work again")
            return
        if not struck.happened:
            outcome.missed[kind.name] += 1
            return
        outcome.struck[kind.name] += 1
        outcome.kills += struck.kills
        is_alone = is_alone and (ground.pauses == pauses or kind.lane == "long")
        if struck.seconds is not None and is_alone:
            outcome.recoveries[kind.name].append(struck.seconds)
        self.say(f"{at:6.1f} s  {kind.name}  {target}  back after {struck.seconds or 0:.2f} s")

    async def _look(self, stack: Stack, outcome: Outcome) -> None:
        """Ask, every few seconds, for what must hold at every instant."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
            try:
                findings = await check_always(stack.sources())
            except AWAY:
                outcome.looks_in_vain += 1
                continue
            outcome.looks += 1
            for finding in findings:
                for violation in finding.violations:
                    self._note(outcome, finding, violation)

    def _note(self, outcome: Outcome, finding: Finding, violation: Violation) -> None:
        text = f"{finding.id}: {violation}"
        if text not in outcome.violations:
            outcome.violations.append(text)
            self.say(f"VIOLATION {text}")

    async def _judge(self, stack: Stack, crowd: Crowd, outcome: Outcome) -> None:
        """Wait until all is settled, and ask for every invariant with the people's history."""
        began = time.monotonic()
        self.say("healed; waiting until everything is settled")
        await _settled(stack)
        findings = await check(stack.sources(with_provider=True), history=crowd.history, grace_seconds=_SETTLE_SECONDS)
        outcome.settled_seconds = time.monotonic() - began
        outcome.findings = findings
        for finding in findings:
            for violation in sorted(finding.violations, key=str):
                self._note(outcome, finding, violation)
        outcome.violations += crowd.wrong
        if stack.has_ended():
            outcome.violations.append("the marketplace has ended by itself")
        async with stack.connected("orders") as connection:
            outcome.orders = await connection.fetchval("SELECT count(*) FROM orders")
            outcome.purchases = await connection.fetchval("SELECT count(*) FROM orders WHERE status = 'complete'")
        outcome.errors = _errors(stack.folder)


async def _settled(stack: Stack) -> None:
    """Wait until no order is live and every outbox is empty, but not for ever: the checker says what is left."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(*AWAY):
            if not await _open_ends(stack):
                return
        await asyncio.sleep(0.5)


async def _open_ends(stack: Stack) -> int:
    open_ends = 0
    for service in registry.SERVICES:
        if service.has_database:
            async with stack.connected(service.name) as connection:
                open_ends += await connection.fetchval("SELECT count(*) FROM outbox WHERE stream_sequence IS NULL")
                if service.name == "orders":
                    open_ends += await _live_orders(connection)
    return open_ends


async def _live_orders(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM orders WHERE status IN ('created', 'awaiting:payment')"
    )
    return count


def _errors(folder: Path) -> Counter[str]:
    """Count what services themselves called an error, by what they said."""
    errors: Counter[str] = Counter()
    for file in (*folder.glob("processes/*.log*"), folder / "admitone.log", folder / "sandbox.log"):
        if not file.exists():
            continue
        for line in file.read_text(errors="replace").splitlines():
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict) and said.get("level") in {"ERROR", "CRITICAL", "error"}:
                last = str(said.get("exception", said.get("error", ""))).strip().splitlines()[-1:]
                errors[f"{file.name}: {said.get('message')} {' '.join(last)[:160]}"] += 1
    return errors


def planned(seed: int, minutes: float) -> Callable[[set[str]], list[list[Planned]]]:
    """Return how a run of that length is planned once it is known what this machine can do."""
    return lambda can: drawn(seed, minutes, can)
