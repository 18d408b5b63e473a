"""A redelivery storm: the whole history of a marketplace, published again and again, must change nothing.

Every event of every outbox is published again, in any order and under a new message id, so that the bus takes it for
another event and delivers it to every subscriber. What each service knows is compared as a digest of its tables.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from admitone import registry
from admitone.kernel import ids
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import event_types, subject_of, wrap
from admitone.kernel.settings import Settings
from proof.endings import Cast, every_ending
from proof.load.speed import Bench
from proof.marketplace import STORED, settled

_IN_FLIGHT: Final = 500
_POLL_SECONDS: Final = 0.05
_CONSUMED_SECONDS_MAX: Final = 600.0

# It notes up to when the provider's books were compared, and so changes by itself.
_LEFT_OUT: Final = "installation"
_TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> $1 ORDER BY tablename"
_DIGEST: Final = """
SELECT count(*) AS rows, md5(coalesce(string_agg(digest, '' ORDER BY digest), '')) AS digest
FROM (SELECT md5(each::text) AS digest FROM {table} AS each) AS digests
"""


@dataclass(frozen=True)
class PublishedEvent:
    """One event of the history, as its producer's relay publishes it."""

    producer: str
    type: str
    message: bytes


async def _databases(settings: Settings) -> "AsyncIterator[tuple[str, asyncpg.Connection[Any]]]":
    """Connect to one database after another."""
    for service in STORED:
        url = settings.database_url(service)
        connection = await asyncpg.connect(url, server_settings={"statement_timeout": "60000"})
        try:
            yield service, connection
        finally:
            await connection.close()


async def digests(settings: Settings) -> dict[str, str]:
    """Return the digest of every table of every service, the inboxes included: `orders.ticket` → rows and hash."""
    found = {}
    async for service, connection in _databases(settings):
        for table in [row["tablename"] for row in await connection.fetch(_TABLES, _LEFT_OUT)]:
            row = await connection.fetchrow(_DIGEST.format(table=table))
            assert row is not None
            found[f"{service}.{table}"] = f"{row['rows']} rows, {row['digest']}"
    return found


async def history(settings: Settings) -> list[PublishedEvent]:
    """Return every event of every outbox."""
    found = []
    columns = ("type", "aggregate", "recorded_at", "data", "traceparent")
    async for service, connection in _databases(settings):
        for row in await connection.fetch("SELECT * FROM outbox ORDER BY position"):
            message = wrap(row["id"], service, *(row[column] for column in columns))
            found.append(PublishedEvent(service, row["type"], message))
    return found


async def publish_again(settings: Settings, events: Sequence[PublishedEvent], times: int) -> int:
    """Publish a history so many times again, in another order each time; return how often events were consumed."""
    dice = random.Random(1)
    async with AsyncExitStack() as stack:
        buses: dict[str, Bus] = {}
        for service in STORED:
            buses[service] = bus = Bus(service)
            bus.start(settings.nats_url(service))
            stack.push_async_callback(bus.close)
            await bus.ready()
        for _ in range(times):
            await _publish(buses, dice.sample(events, len(events)))
        await _consumed(buses)
    storing = [each for each in registry.SERVICES if each.has_database]
    consumers = Counter(event.__name__ for service in storing for event in service.subscriptions)
    return times * sum(consumers[each.type] for each in events)


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


async def _consumed(buses: Mapping[str, Bus]) -> None:
    """Wait until every consumer has acknowledged everything."""
    async with asyncio.timeout(_CONSUMED_SECONDS_MAX):
        for service in registry.SERVICES:
            for producer in {each.producer for each in service.subscriptions} if service.has_database else ():
                jetstream = buses[service.name].jetstream
                while (
                    info := await jetstream.consumer_info(producer, service.name)
                ).num_pending or info.num_ack_pending:
                    await asyncio.sleep(_POLL_SECONDS)


async def prove_storm(bench: Bench) -> None:
    """Bring purchases to every kind of end, then consume all their events again and again."""
    marketplace, report, options = bench.marketplace, bench.report, bench.options
    done: Counter[str] = Counter()
    async with marketplace.people(3) as people:
        while len(await history(marketplace.settings)) < options.events:
            done += await every_ending(Cast(*people), 10)
    await settled(marketplace.value)
    await marketplace.applied()
    events = await history(marketplace.settings)
    statuses = Counter(row["status"] for row in await marketplace.rows("orders", "SELECT status FROM orders"))
    report.add("a history of purchases", events=len(events), purchases=done.total(), kinds_of_end=len(done), **statuses)
    before = await digests(marketplace.settings)
    consumed = await publish_again(marketplace.settings, events, options.times)
    after = await digests(marketplace.settings)
    report.add(f"  consumed {options.times} times again", deliveries=consumed)
    changed = [table for table in before if before[table] != after.get(table)]
    report.add("  tables changed by it", of=len(before), changed=", ".join(changed) or "none")
    assert not changed
