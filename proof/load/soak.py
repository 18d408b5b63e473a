"""A soak: minutes of steady trade in which nothing of ours may grow – memory, connections, descriptors, the outbox."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

from admitone.registry import SERVICES
from proof.load.generator import quantile
from proof.load.report import counted
from proof.load.speed import Bench
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


async def prove_soak(bench: Bench) -> None:
    """Trade for minutes at a steady pace; what is ours must be as large at the end as after two minutes."""
    marketplace, report, minutes = bench.marketplace, bench.report, bench.options.minutes
    pace = bench.options.pace
    if not pace:
        most = await _most_per_second(marketplace)
        report.add("purchases that can be served", per_second=most)
        pace = most / 2
    end, sampled = minutes * 60, Sampled()
    async with marketplace.people(_PEOPLE) as people, asyncio.TaskGroup() as group:
        trade = Trade(people)
        sampling = group.create_task(_sample(marketplace, sampled))
        await trade.run(pace, end)
        sampling.cancel()
    await marketplace.applied()
    report.add(
        f"soak, {minutes:g} minutes",
        pace_per_second=pace,
        purchases=trade.purchases,
        late=trade.late,
        unanswered=trade.history.unanswered,
        responses=counted(trade.history.statuses),
    )
    begin = 120.0 if minutes > 3 else minutes * 15
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
    ages = sampled.outbox_age_seconds
    report.add("  outbox age, s", p50=quantile(ages, 0.5), p99=quantile(ages, 0.99), max=max(ages))
