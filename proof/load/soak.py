"""A soak: minutes of steady trade, in which nothing of ours may grow – memory, connections, descriptors, the outbox."""

import asyncio
import itertools
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import asyncpg
import httpx

from admitone.kernel import clock
from admitone.registry import SERVICES
from proof.load.ends import pays
from proof.load.world import Used, World

_SAMPLE_SECONDS: Final = 0.5
_PROCESSES_EVERY: Final = 10
_BUYERS: Final = 200
_AT_ONCE: Final = 32
_OUTBOX_AGE: Final = """
SELECT coalesce(extract(epoch FROM instant() - min(recorded_at)), 0)::float8 FROM outbox WHERE stream_sequence IS NULL
"""
_CONNECTED: Final = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"


@dataclass
class Sampled:
    """What was seen while it went on; times in seconds since the beginning."""

    outbox_age_seconds: list[float] = field(default_factory=list)
    connections: list[tuple[float, float]] = field(default_factory=list)
    processes: list[tuple[float, dict[str, Used]]] = field(default_factory=list)


@dataclass
class Traded:
    """What was asked for, and how it ended."""

    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0
    purchases: int = 0
    late: int = 0
    """Purchases that began more than a second after their turn: more was asked for than there is room for."""


class Trade:
    """People who list, look, buy, pay and now and then change their mind, at a steady pace."""

    def __init__(self, clients: Sequence[httpx.AsyncClient]) -> None:
        self._clients = clients
        self.done = Traded()

    async def run(self, per_second: float, seconds: float) -> None:
        """Begin so many purchases a second; return when the last one has ended."""
        began = clock.monotonic_seconds()
        async with asyncio.TaskGroup() as going:
            for number in range(int(per_second * seconds)):
                early = began + number / per_second - clock.monotonic_seconds()
                if early > 0:
                    await asyncio.sleep(early)
                self.done.late += early < -1
                going.create_task(self._purchase(number))

    async def run_freely(self, at_once: int, seconds: float) -> None:
        """Let so many purchases be under way at any time."""
        until = clock.monotonic_seconds() + seconds
        numbers = itertools.count()

        async def one_by_one() -> None:
            while clock.monotonic_seconds() < until:
                await self._purchase(next(numbers))

        await asyncio.gather(*(one_by_one() for _ in range(at_once)))

    async def _purchase(self, number: int) -> None:
        try:
            await self._buy(number)
        except httpx.TransportError:
            self.done.unanswered += 1

    async def _buy(self, number: int) -> None:
        seller, buyer = self._clients[number % len(self._clients)], self._clients[(number + 1) % len(self._clients)]
        listed = self._seen(await seller.post("/api/tickets", json={"title": f"Fado night {number}", "price": 20}))
        self._seen(await buyer.get("/api/tickets"))
        if listed.status_code != 201:
            return
        ordered = self._seen(await buyer.post("/api/orders", json={"ticketId": listed.json()["id"]}))
        if ordered.status_code != 201:
            return
        order = ordered.json()["id"]
        if number % 10 == 0:
            self._seen(await buyer.delete(f"/api/orders/{order}"))
            return
        paid = self._seen(await pays(buyer, order))
        self.done.purchases += paid.status_code == 201
        self._seen(await buyer.get(f"/orders/{order}"))

    def _seen(self, answer: httpx.Response) -> httpx.Response:
        self.done.statuses[answer.status_code] += 1
        return answer


@asynccontextmanager
async def trade(world: World) -> AsyncIterator[Trade]:
    """People who are signed in and ready to trade."""
    # One for all: reading the certificates anew for each client would take longer than the whole warm-up.
    certificates = httpx.create_ssl_context()
    async with AsyncExitStack() as stack:
        yield Trade(
            [
                await stack.enter_async_context(
                    httpx.AsyncClient(
                        base_url=f"http://127.0.0.1:{world.port}",
                        cookies={"session": world.token()},
                        timeout=30,
                        verify=certificates,
                        # Shorter than the server's own patience, or it hangs up just as the next request goes out.
                        limits=httpx.Limits(keepalive_expiry=2),
                    )
                )
                for _ in range(_BUYERS)
            ]
        )


async def most_per_second(world: World, seconds: float = 10.0) -> float:
    """Return how many purchases a second there is room for."""
    async with trade(world) as people:
        began = clock.monotonic_seconds()
        await people.run_freely(_AT_ONCE, seconds)
        await world.settled()
        return people.done.purchases / (clock.monotonic_seconds() - began)


async def soaked(world: World, per_second: float, seconds: float) -> tuple[Traded, Sampled]:
    """Let people trade for a while, and watch."""
    sampled = Sampled()
    async with trade(world) as people:
        watching = asyncio.create_task(_watch(world, sampled))
        try:
            await people.run(per_second, seconds)
        finally:
            watching.cancel()
            await asyncio.wait({watching})
    return people.done, sampled


async def _watch(world: World, sampled: Sampled) -> None:
    began, number = clock.monotonic_seconds(), 0
    async with AsyncExitStack() as stack:
        databases = []
        for service in SERVICES:
            if service.publications:
                connection = await asyncpg.connect(world.settings.migrator_urls[service.name])
                stack.push_async_callback(connection.close)
                databases.append(connection)
        # Others' connections are shown to the superuser only.
        server = await asyncpg.connect(world.superuser_url)
        stack.push_async_callback(server.close)
        while True:
            at = clock.monotonic_seconds() - began
            sampled.outbox_age_seconds.append(max([await each.fetchval(_OUTBOX_AGE) for each in databases]))
            if number % _PROCESSES_EVERY == 0:
                sampled.connections.append((at, float(await server.fetchval(_CONNECTED))))
                sampled.processes.append((at, world.used()))
            number += 1
            await asyncio.sleep(_SAMPLE_SECONDS)


def between(samples: Sequence[tuple[float, float]], first: float, last: float) -> float:
    """Return the median of what was seen in a span of time."""
    return statistics.median(value for at, value in samples if first <= at <= last)
