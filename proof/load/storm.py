"""A redelivery storm: the whole history of a marketplace, told again and again, must leave no trace.

Every event of every outbox goes onto the bus anew, in any order and under a new message id, so that the bus takes it
for another one and hands it to everybody who hears it. What each service knows is compared as a digest of its tables.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, Self

import asyncpg

from admitone import registry
from admitone.kernel import clock, ids
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import event_types, subject_of, wrap
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings

_IN_FLIGHT: Final = 500
_LOOKS_AGAIN_SECONDS: Final = 0.05

# What may change by itself: up to when the provider's books were compared.
_LEFT_OUT: Final = frozenset({"installation"})
_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
_DIGEST: Final = """
SELECT count(*) AS rows, md5(coalesce(string_agg(digest, '' ORDER BY digest), '')) AS digest
FROM (SELECT md5(each::text) AS digest FROM {table} AS each) AS digests
"""


@dataclass(frozen=True)
class Told:
    """One event of the history, as it goes over the bus."""

    producer: str
    type: str
    message: bytes


@dataclass(frozen=True)
class ReceivedEvent:
    """What one service did with a storm."""

    events: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.events / self.seconds if self.seconds else 0.0


async def digests(settings: Settings) -> dict[str, str]:
    """Return the digest of every table of every service, the inboxes included: `orders.ticket` → rows and hash."""
    found = {}
    for service, url in settings.database_urls.items():
        if service not in {each.name for each in registry.SERVICES}:
            continue
        connection = await asyncpg.connect(url, server_settings={"statement_timeout": "60000"})
        try:
            for table in [row["tablename"] for row in await connection.fetch(_TABLES)]:
                if table not in _LEFT_OUT:
                    row = await connection.fetchrow(_DIGEST.format(table=table))
                    assert row is not None
                    found[f"{service}.{table}"] = f"{row['rows']} rows, {row['digest']}"
        finally:
            await connection.close()
    return found


async def history(settings: Settings) -> list[Told]:
    """Return every event that was told, as its producer's relay publishes it."""
    found = []
    for service in registry.SERVICES:
        if not service.publications or service.name not in settings.database_urls:
            continue
        connection = await asyncpg.connect(settings.database_urls[service.name])
        try:
            for row in await connection.fetch("SELECT * FROM outbox ORDER BY position"):
                message = wrap(
                    row["id"],
                    service.name,
                    row["type"],
                    row["aggregate"],
                    row["recorded_at"],
                    row["data"],
                    row["traceparent"],
                )
                found.append(Told(service.name, row["type"], message))
        finally:
            await connection.close()
    return found


class Buses:
    """A further connection to the bus for each service, with its own account."""

    def __init__(self, settings: Settings, services: Sequence[Service]) -> None:
        self._settings = settings
        self._services = [each for each in services if each.has_database]
        self._buses: dict[str, Bus] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for service in self._services:
            bus = Bus(service.name)
            bus.start(self._settings.nats_url(service.name))
            self._stack.push_async_callback(bus.close)
            await bus.ready()
            self._buses[service.name] = bus
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def tell(self, events: Sequence[Told]) -> None:
        """Publish events as their producers, and return when the bus has them all."""
        under_way: list[asyncio.Future[int]] = []
        for each in events:
            subject = subject_of(event_types()[each.type])
            under_way.append(await self._buses[each.producer].publish(subject, each.message, str(ids.new_id())))
            if len(under_way) == _IN_FLIGHT:
                await asyncio.gather(*under_way)
                under_way.clear()
        await asyncio.gather(*under_way)

    async def waiting(self, service: Service) -> int:
        """Return how many events a service has not settled."""
        count = 0
        for producer in {each.producer for each in service.subscriptions}:
            if producer in self._buses:
                consumer = f"$JS.API.CONSUMER.INFO.{producer}.{service.name}"
                info: dict[str, Any] = await self._buses[service.name].request(consumer, {})
                count += info["num_pending"] + info["num_ack_pending"]
        return count

    async def subscriptions(self, began: float, seconds: float) -> dict[str, float]:
        """Wait until everybody has settled everything; return how long each took, in seconds since `began`."""
        took: dict[str, float] = {}
        while len(took) < len(self._services):
            for service in self._services:
                if service.name not in took and await self.waiting(service) == 0:
                    took[service.name] = clock.monotonic_seconds() - began
            assert clock.monotonic_seconds() - began < seconds, f"only {sorted(took)} have heard all in {seconds} s"
            await asyncio.sleep(_LOOKS_AGAIN_SECONDS)
        return took


async def told_again(
    settings: Settings,
    services: Sequence[Service],
    events: Sequence[Told],
    times: int,
    *,
    seed: int = 1,
    seconds: float = 600.0,
) -> Mapping[str, ReceivedEvent]:
    """Tell a history so many times again, in another order each time; return what each service took in, how fast."""
    dice = random.Random(seed)
    async with Buses(settings, services) as buses:
        await buses.subscriptions(clock.monotonic_seconds(), seconds)
        began = clock.monotonic_seconds()
        for _ in range(times):
            await buses.tell(dice.sample(events, len(events)))
        took = await buses.subscriptions(began, seconds)
    heard = {each.name: {event.__name__ for event in each.subscriptions} for each in services}
    return {
        service: ReceivedEvent(times * sum(each.type in heard[service] for each in events), seconds_taken)
        for service, seconds_taken in took.items()
    }
