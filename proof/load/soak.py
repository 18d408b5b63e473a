"""A soak: minutes of steady trade in which nothing of ours may grow – memory, connections, descriptors, the outbox."""

import asyncio
import itertools
import statistics
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

from admitone.registry import SERVICES
from proof.load.report import Report
from proof.load.usage import Usage, usage_by_program
from proof.marketplace import Marketplace
from proof.people import GOOD_CARD, Person

_SAMPLE_SECONDS: Final = 0.5
_PROCESSES_EVERY: Final = 10
_PEOPLE: Final = 200
_AT_ONCE: Final = 32
_OUTBOX_AGE: Final = """
SELECT coalesce(extract(epoch FROM instant() - min(recorded_at)), 0)::float8 FROM outbox WHERE stream_sequence IS NULL
"""
_CONNECTIONS: Final = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"

Samples = list[tuple[float, float]]
"""Each with its time in seconds since the beginning."""


@dataclass
class Sampled:
    """What was measured during the soak."""

    outbox_age_seconds: list[float] = field(default_factory=list)
    connections: Samples = field(default_factory=list)
    processes: list[tuple[float, dict[str, Usage]]] = field(default_factory=list)


class Trade:
    """People who list, look, buy, pay and now and then change their mind, at a steady pace."""

    def __init__(self, people: Sequence[Person]) -> None:
        self._people = people
        self.history = people[0].history
        self.purchases = 0
        self.late = 0
        """Purchases that began more than a second after their turn: the pace is more than can be served."""

    async def run(self, per_second: float, seconds: float) -> None:
        """Begin so many purchases a second; return when the last one has ended."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(per_second * seconds)):
                early_seconds = began + number / per_second - time.monotonic()
                if early_seconds > 0:
                    await asyncio.sleep(early_seconds)
                self.late += early_seconds < -1
                group.create_task(self._purchase(number))

    async def run_freely(self, seconds: float) -> None:
        """Keep as many purchases in progress as there are people at once."""
        deadline, numbers = time.monotonic() + seconds, itertools.count()

        async def one_by_one() -> None:
            while time.monotonic() < deadline:
                await self._purchase(next(numbers))

        await asyncio.gather(*(one_by_one() for _ in range(_AT_ONCE)))

    async def _purchase(self, number: int) -> None:
        seller, buyer = (self._people[(number + offset) % len(self._people)] for offset in (0, 1))
        ticket = await seller.list_ticket(f"Fado night {number}")
        await buyer.request("GET", "/api/tickets")
        if ticket is None or not (orders := await buyer.reserve(ticket)):
            return
        if number % 10 == 0:
            await buyer.cancel(orders[0])
            return
        payment = await buyer.pay(orders[0], GOOD_CARD)
        self.purchases += payment.is_done
        await buyer.request("GET", f"/orders/{orders[0]}")


async def _most_per_second(marketplace: Marketplace, seconds: float = 10.0) -> float:
    """Return how many purchases a second can be served."""
    async with marketplace.people(_PEOPLE) as people:
        trade, began = Trade(people), time.monotonic()
        await trade.run_freely(seconds)
        await marketplace.applied()
        return trade.purchases / (time.monotonic() - began)


async def _soak(marketplace: Marketplace, per_second: float, seconds: float) -> tuple[Trade, Sampled]:
    """Let people trade for a while, and measure."""
    sampled = Sampled()
    async with marketplace.people(_PEOPLE) as people:
        trade = Trade(people)
        sampling = asyncio.create_task(_sample(marketplace, sampled))
        try:
            await trade.run(per_second, seconds)
        finally:
            sampling.cancel()
            await asyncio.wait({sampling})
    return trade, sampled


async def _sample(marketplace: Marketplace, sampled: Sampled) -> None:
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        outboxes = [
            await stack.enter_async_context(marketplace.connected(each.name)) for each in SERVICES if each.publications
        ]
        # Only the superuser sees others' connections.
        server = await stack.enter_async_context(marketplace.connected("postgres"))
        for number in itertools.count():
            at = time.monotonic() - began
            sampled.outbox_age_seconds.append(max([await each.fetchval(_OUTBOX_AGE) for each in outboxes]))
            if number % _PROCESSES_EVERY == 0:
                sampled.connections.append((at, float(await server.fetchval(_CONNECTIONS))))
                sampled.processes.append((at, usage_by_program(marketplace.pid)))
            await asyncio.sleep(_SAMPLE_SECONDS)


def median_between(samples: Samples, first: float, last: float) -> float:
    """Return the median of what was measured in a span of time."""
    return statistics.median(value for at, value in samples if first <= at <= last)


async def prove_soak(marketplace: Marketplace, report: Report, chosen: Namespace) -> None:
    """Trade for minutes at a steady pace; what is ours must be as large at the end as after two minutes."""
    pace = chosen.pace
    if not pace:
        most = await _most_per_second(marketplace)
        report.add("purchases that can be served", per_second=most)
        pace = most / 2
    end = chosen.minutes * 60
    trade, sampled = await _soak(marketplace, pace, end)
    await marketplace.applied()
    statuses = " ".join(f"{count}x{status}" for status, count in sorted(trade.history.statuses.items()))
    report.add(
        f"soak, {chosen.minutes:g} minutes",
        pace_per_second=pace,
        purchases=trade.purchases,
        late=trade.late,
        unanswered=trade.history.unanswered,
        responses=statuses,
    )
    begin = 120.0 if chosen.minutes > 3 else chosen.minutes * 15
    span = min(30.0, begin)

    def both_ends(samples: Samples) -> tuple[float, float]:
        return median_between(samples, begin, begin + span), median_between(samples, end - span, end)

    for name in sampled.processes[-1][1]:
        used = [(at, each[name]) for at, each in sampled.processes if name in each]
        memory = both_ends([(at, each.memory_mb) for at, each in used])
        descriptors = both_ends([(at, float(each.descriptors)) for at, each in used])
        report.add(
            f"  {name}",
            memory_mb=memory[0],
            at_the_end=memory[1],
            growth=memory[1] / memory[0] - 1,
            descriptors=descriptors[0],
            of_them_at_the_end=descriptors[1],
        )
    connections = both_ends(sampled.connections)
    report.add("  connections to PostgreSQL", count=connections[0], at_the_end=connections[1])
    ages = sorted(sampled.outbox_age_seconds)
    report.add("  outbox age, s", p50=ages[len(ages) // 2], p99=ages[int(len(ages) * 0.99)], max=ages[-1])
