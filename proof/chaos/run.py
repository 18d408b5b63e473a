"""One run: people trade, faults strike, invariants are checked again and again; then all is healed and judged."""

import asyncio
import contextlib
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from admitone.invariants import Finding, check_always
from proof.chaos.clocks import LIBRARY
from proof.chaos.faults import Context, Kind, NothingToStrike
from proof.chaos.probes import UNREACHABLE, Probes
from proof.chaos.schedule import Planned
from proof.chaos.stack import Stack
from proof.clients import HttpClient, http_client
from proof.history import ClientHistory
from proof.marketplace import logged_errors, settled
from proof.people import Crowd, Habits, Person
from proof.waiting import NotInTime

HOLD_SECONDS: Final = 20
HABITS: Final = Habits(
    pauses_seconds=(0.6,),
    retries=(2,),
    settle={"pay": 83, "cancel": 5, "leave": 4, "pay and cancel": 4, "pay twice": 4},
    meddles=0.03,
    loses_interest=0.6,
)
_SELLERS: Final = 8
_BUYERS: Final = 28
_ON_SALE_MAX: Final = 60
_CHECK_EVERY_SECONDS: Final = 10.0
# The longest pause between two attempts to settle a payment is 60 s, and one lease of 30 s may have to run out before.
_SETTLE_SECONDS: Final = 150.0


@dataclass
class RunOutcome:
    """What happened in a run."""

    seed: int
    history: ClientHistory = field(default_factory=ClientHistory)
    seconds: float = 0.0
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """How long until all worked again, for faults during which no other service was paused."""
    struck: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    """Faults that found nothing to strike, such as a commit to break."""
    unplayed: int = 0
    kills: int = 0
    checks: int = 0
    failed_checks: int = 0
    purchases: int = 0
    orders: int = 0
    settled_seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    findings: Sequence[Finding] = ()
    skipped: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


@dataclass
class ChaosRun:
    """A run on a folder of its own; `plan` draws the lanes once it is known what this machine can do."""

    seed: int
    folder: Path
    plan: Callable[[set[str]], list[list[Planned]]]
    seconds: float
    buyers: int = _BUYERS
    hold_seconds: int = HOLD_SECONDS

    def progress(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    async def run(self) -> RunOutcome:
        stack = Stack(self.folder, self.hold_seconds)
        outcome = self._outcome = RunOutcome(self.seed)
        async with http_client(stack.marketplace.url) as http:
            crowd = Crowd(HttpClient(http), Random(self.seed), HABITS, self.hold_seconds, outcome.history)
            try:
                await stack.open()
                for _ in range(_SELLERS + self.buyers):
                    await crowd.sign_up()
                await self._break(stack, crowd, await Probes.start(stack, crowd))
                await self._judge(stack)
            finally:
                await stack.close()
        return outcome

    # Under faults.

    async def _break(self, stack: Stack, crowd: Crowd, probes: Probes) -> None:
        """Let people trade while the faults strike."""
        lanes = self.plan({*stack.disks, *(["clocks"] if LIBRARY else [])})
        if LIBRARY is None:
            stack.skipped.append("wrong clocks: libfaketime is missing (Debian: apt-get install faketime)")
        self._outcome.skipped = stack.skipped
        began, is_over = time.monotonic(), asyncio.Event()
        context = Context(stack, probes, Random(self.seed))
        async with asyncio.TaskGroup() as group:
            trading = group.create_task(_trade(crowd, is_over))
            checking = group.create_task(self._check(stack))
            async with asyncio.TaskGroup() as striking:
                for lane in lanes:
                    striking.create_task(self._strike(context, lane, began))
            self._outcome.seconds = time.monotonic() - began
            stack.heal()
            # What was begun is ended: a request without a record would look like one that nobody sent.
            is_over.set()
            await trading
            checking.cancel()

    async def _strike(self, context: Context, lane: Sequence[Planned], began: float) -> None:
        for number, each in enumerate(lane):
            await asyncio.sleep(max(0.0, began + each.at_seconds - time.monotonic()))
            at = time.monotonic() - began
            if at > self.seconds:
                self._outcome.unplayed += len(lane) - number
                return
            await self._strike_once(context, each.kind, each.target, at)

    async def _strike_once(self, context: Context, kind: Kind, target: str, at: float) -> None:
        outcome, probes, is_alone, pauses = self._outcome, context.probes, context.paused == 0, context.pauses
        began = time.monotonic()
        try:
            await kind.strike(context, target)
            began = began if kind.brings_back else time.monotonic()
            outcome.struck[kind.name] += 1
            outcome.kills += kind.kills
            since = await probes.now()
            await probes.until(lambda: kind.recovered(probes, target, since))
        except NotInTime:
            outcome.violations.append(f"{kind.name} ({target}) at {at:.0f} s: it did not work again")
        except (NothingToStrike, *UNREACHABLE):
            outcome.missed[kind.name] += 1
        else:
            seconds = time.monotonic() - began
            if is_alone and (context.pauses == pauses or kind.lane == "long"):
                outcome.recoveries[kind.name].append(seconds)
            self.progress(f"{at:6.1f} s  {kind.name}  {target}  recovered after {seconds:.2f} s")

    async def _check(self, stack: Stack) -> None:
        """Check, every few seconds, what must hold at every instant."""
        while True:
            await asyncio.sleep(_CHECK_EVERY_SECONDS)
            try:
                findings = await check_always(replace(stack.marketplace.sources, list_intents=None))
            except UNREACHABLE:
                self._outcome.failed_checks += 1
            else:
                self._outcome.checks += 1
                self._note(findings)

    def _note(self, findings: Sequence[Finding]) -> None:
        for text in [f"{finding.id}: {each}" for finding in findings for each in sorted(finding.violations, key=str)]:
            if text not in self._outcome.violations:
                self._outcome.violations.append(text)
                self.progress(f"VIOLATION {text}")

    # Afterwards.

    async def _judge(self, stack: Stack) -> None:
        """Wait until all is settled, and check every invariant with the client history."""
        outcome, marketplace, began = self._outcome, stack.marketplace, time.monotonic()
        self.progress("healed; waiting until everything is settled")
        with contextlib.suppress(NotInTime, *UNREACHABLE):  # the checker reports what is left
            await settled(marketplace.value, _SETTLE_SECONDS)
        outcome.findings = await marketplace.check(outcome.history.records, _SETTLE_SECONDS)
        outcome.settled_seconds = time.monotonic() - began
        self._note(outcome.findings)
        outcome.violations += outcome.history.problems
        if marketplace.has_ended:
            outcome.violations.append("the marketplace ended by itself")
        statuses = Counter(row["status"] for row in await marketplace.rows("orders", "SELECT status FROM orders"))
        outcome.orders, outcome.purchases = statuses.total(), statuses["complete"]
        outcome.errors = logged_errors(stack.folder)


async def _trade(crowd: Crowd, is_over: asyncio.Event) -> None:
    """Sell and buy until it is over; the first of the people sell, the others buy, and new ones sign up."""

    async def repeat(act: Callable[[], Awaitable[object]]) -> None:
        while not is_over.is_set():
            await act()

    async def sell(seller: Person) -> None:
        await asyncio.sleep(crowd.random.uniform(0.0, 0.15))
        if len(crowd.on_sale) < _ON_SALE_MAX:
            await crowd.list_ticket(seller)
        if crowd.random.random() < 0.1:
            await crowd.edit_a_ticket(seller)

    async def sign_up() -> None:
        await asyncio.sleep(crowd.random.uniform(0.0, 6.0))
        await crowd.sign_up()

    people = list(crowd.people)
    async with asyncio.TaskGroup() as group:
        for seller in people[:_SELLERS]:
            group.create_task(repeat(partial(sell, seller)))
        for buyer in people[_SELLERS:]:
            group.create_task(repeat(partial(crowd.shop, buyer)))
        group.create_task(repeat(sign_up))
