"""A redelivery storm: the whole history of a marketplace, published again and again, must change nothing.

Every event of every outbox is published again, in any order and under a new message id, so that the bus takes it for
another event and delivers it to every subscriber. What each service knows is compared as a digest of its tables.
"""

import asyncio
import random
import time
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from admitone import registry
from admitone.kernel import ids
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import event_types, subject_of, wrap
from admitone.kernel.settings import Settings
from proof.endings import Cast, every_ending
from proof.load.report import Report
from proof.marketplace import Marketplace, settled

_IN_FLIGHT: Final = 500
_POLL_SECONDS: Final = 0.05

# It notes up to when the provider's books were compared, and so changes by itself.
_LEFT_OUT: Final = "installation"
_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> $1 ORDER BY tablename"
_DIGEST: Final = """
SELECT count(*) AS rows, md5(coalesce(string_agg(digest, '' ORDER BY digest), '')) AS digest
FROM (SELECT md5(each::text) AS digest FROM {table} AS each) AS digests
"""
_STORED: Final = tuple(each for each in registry.SERVICES if each.has_database)


@dataclass(frozen=True)
class PublishedEvent:
    """One event of the history, as its producer's relay publishes it."""

    producer: str
    type: str
    message: bytes


@dataclass(frozen=True)
class Consumption:
    """How many events of a storm one service consumed, and how long it took."""

    events: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.events / self.seconds if self.seconds else 0.0


@asynccontextmanager
async def _connected(settings: Settings, service: str) -> "AsyncIterator[asyncpg.Connection[Any]]":
    url = settings.database_url(service)
    connection = await asyncpg.connect(url, server_settings={"statement_timeout": "60000"})
    try:
        yield connection
    finally:
        await connection.close()


async def digests(settings: Settings) -> dict[str, str]:
    """Return the digest of every table of every service, the inboxes included: `orders.ticket` → rows and hash."""
    found = {}
    for service in _STORED:
        async with _connected(settings, service.name) as connection:
            for table in [row["tablename"] for row in await connection.fetch(_TABLES, _LEFT_OUT)]:
                row = await connection.fetchrow(_DIGEST.format(table=table))
                assert row is not None
                found[f"{service.name}.{table}"] = f"{row['rows']} rows, {row['digest']}"
    return found


async def history(settings: Settings) -> list[PublishedEvent]:
    """Return every event of every outbox."""
    found = []
    for service in _STORED:
        async with _connected(settings, service.name) as connection:
            rows = await connection.fetch("SELECT * FROM outbox ORDER BY position")
        columns = ("type", "aggregate", "recorded_at", "data", "traceparent")
        for row in rows:
            message = wrap(row["id"], service.name, *(row[column] for column in columns))
            found.append(PublishedEvent(service.name, row["type"], message))
    return found


async def publish_again(
    settings: Settings, events: Sequence[PublishedEvent], times: int, *, seed: int = 1, seconds_max: float = 600.0
) -> Mapping[str, Consumption]:
    """Publish a history so many times again, in another order each time; return what each service consumed."""
    dice = random.Random(seed)
    async with AsyncExitStack() as stack:
        buses: dict[str, Bus] = {}
        for service in _STORED:
            buses[service.name] = bus = Bus(service.name)
            bus.start(settings.nats_url(service.name))
            stack.push_async_callback(bus.close)
            await bus.ready()
        await _consumed(buses, seconds_max)
        began = time.monotonic()
        for _ in range(times):
            await _publish(buses, dice.sample(events, len(events)))
        took = {name: at - began for name, at in (await _consumed(buses, seconds_max)).items()}
    subscribed = {each.name: {event.__name__ for event in each.subscriptions} for each in _STORED}
    return {
        name: Consumption(times * sum(each.type in subscribed[name] for each in events), seconds)
        for name, seconds in took.items()
    }


async def _publish(buses: Mapping[str, Bus], events: Sequence[PublishedEvent]) -> None:
    """Publish events as their producers, and return when the bus has acknowledged them all."""
    in_flight: list[asyncio.Future[int]] = []
    for each in events:
        subject = subject_of(event_types()[each.type])
        in_flight.append(await buses[each.producer].publish(subject, each.message, str(ids.new_id())))
        if len(in_flight) == _IN_FLIGHT:
            await asyncio.gather(*in_flight)
            in_flight.clear()
    await asyncio.gather(*in_flight)


async def _consumed(buses: Mapping[str, Bus], seconds_max: float) -> dict[str, float]:
    """Wait until every consumer has acknowledged everything; return when each had."""
    at: dict[str, float] = {}
    deadline = time.monotonic() + seconds_max
    while len(at) < len(buses):
        for service in _STORED:
            producers = {each.producer for each in service.subscriptions} & buses.keys()
            if service.name not in at and not await _waiting(buses[service.name], producers):
                at[service.name] = time.monotonic()
        assert time.monotonic() < deadline, f"only {sorted(at)} have consumed all in {seconds_max} s"
        await asyncio.sleep(_POLL_SECONDS)
    return at


async def _waiting(bus: Bus, producers: set[str]) -> int:
    """Return how many events a service has not acknowledged."""
    count = 0
    for producer in producers:
        info = await bus.jetstream.consumer_info(producer, bus.service)
        count += (info.num_pending or 0) + (info.num_ack_pending or 0)
    return count


async def prove_storm(marketplace: Marketplace, report: Report, chosen: Namespace) -> None:
    """Bring purchases to every kind of end, then consume all their events again and again."""
    done: Counter[str] = Counter()
    async with marketplace.people(3) as people:
        while len(await history(marketplace.settings)) < chosen.events:
            done += await every_ending(Cast(*people), 10)
    await settled(marketplace.value)
    await marketplace.applied()
    events = await history(marketplace.settings)
    statuses = Counter(row["status"] for row in await marketplace.rows("orders", "SELECT status FROM orders"))
    report.add("a history of purchases", events=len(events), purchases=done.total(), kinds_of_end=len(done), **statuses)
    before = await digests(marketplace.settings)
    consumed = await publish_again(marketplace.settings, events, chosen.times)
    after = await digests(marketplace.settings)
    for service, each in sorted(consumed.items()):
        if each.events:
            name = f"  {service} consumes it {chosen.times} times"
            report.add(name, events=each.events, per_second=each.per_second)
    changed = [table for table in before if before[table] != after.get(table)]
    report.add("  tables changed by it", of=len(before), changed=", ".join(changed) or "none")
    assert not changed
