"""What a marketplace must bear without harm, measured: a storm of old events, poison, and ten minutes of trade."""

from collections import Counter
from typing import Any

import httpx

from admitone.kernel import clock
from admitone.registry import SERVICES
from proof.load import poison
from proof.load import soak as soaking
from proof.load.ends import People, every_end, everything_ended
from proof.load.report import Report
from proof.load.storm import digests, history, told_again
from proof.load.world import World

# Reservations that nobody pays run out soon, or a history would take a quarter of an hour to end.
STORM: dict[str, str] = {"ADMITONE_ORDER_WINDOW_SECONDS": "10"}


async def storm(world: World, report: Report, events_wanted: int, times: int) -> None:
    """Live through purchases with every kind of end, then hear all of it again and again."""
    done: Counter[str] = Counter()
    began = clock.monotonic_seconds()
    async with client(world) as alice, client(world) as bob, client(world) as carol:
        while await _told(world) < events_wanted:
            done += await every_end(People(alice, bob, carol), 10)

        async def value(service: str, sql: str) -> Any:
            return await world.value(service, sql)

        await everything_ended(value)
    await world.settled()
    events = await history(world.settings)
    report.add(
        "a history of purchases",
        events=len(events),
        tickets=sum(done.values()),
        kinds_of_end=len(done),
        complete=await world.value("orders", "SELECT count(*) FROM orders WHERE status = 'complete'"),
        cancelled=await world.value("orders", "SELECT count(*) FROM orders WHERE status = 'cancelled'"),
        seconds=clock.monotonic_seconds() - began,
    )
    before = await digests(world.settings)
    heard = await told_again(world.settings, SERVICES, events, times)
    after = await digests(world.settings)
    for service, what in sorted(heard.items()):
        if what.events:
            report.add(f"  {service} hears it {times} times", events=what.events, per_second=what.per_second)
    changed = [table for table in before if before[table] != after.get(table)]
    report.add("  tables changed by it", of=len(before), changed=", ".join(changed) or "none")


async def _told(world: World) -> int:
    return sum([await world.value(each.name, "SELECT count(*) FROM outbox") for each in SERVICES if each.publications])


async def poisoned(world: World, report: Report, seconds: int, per_second: float) -> None:
    """The same load without and with one poisonous event in a thousand."""
    count = int(seconds * per_second)
    await poison.listed(world, int(10 * per_second), per_second, None)
    plain = await poison.listed(world, count, per_second, None)
    await world.change("orders", poison.BREAK)
    spoilt = await poison.listed(world, count, per_second, 1000)
    for name, each in (("without poison", plain), ("others, 1 in 1,000 is poison", spoilt)):
        report.add(
            f"ticket to orders, {name}",
            p50_ms=each.quantile_ms(0.5),
            p99_ms=each.quantile_ms(0.99),
            max_ms=each.late_ms[-1],
            events=len(each.late_ms),
        )
    report.add("  p99 beside the baseline", ratio=spoilt.quantile_ms(0.99) / plain.quantile_ms(0.99))
    letters = await poison.given_up(world, spoilt.poison)
    attempts = " ".join(
        f"{count}x{attempts}" for attempts, count in Counter(each["attempts"] for each in letters).items()
    )
    await world.change("orders", poison.MEND)
    first, second = poison.retried(world), poison.retried(world)
    there = await world.value("orders", "SELECT count(*) FROM ticket WHERE id = ANY($1)", list(spoilt.poison))
    left = await world.value("orders", "SELECT count(*) FROM dead_letter")
    report.add("  dead letters", letters=len(letters), of=len(spoilt.poison), attempts=attempts)
    report.add("  retried after the fix", first=first, again=second, tickets=there, left=left)


async def soak(world: World, report: Report, minutes: float, per_second: float) -> None:
    """Trade for minutes at a steady pace; what is ours must be as large at the end as after two minutes."""
    if not per_second:
        most = await soaking.most_per_second(world)
        report.add("purchases there is room for", per_second=most)
        per_second = most / 2
    traded, sampled = await soaking.soaked(world, per_second, minutes * 60)
    await world.settled()
    statuses = " ".join(f"{count}x{status}" for status, count in sorted(traded.statuses.items()))
    report.add(
        f"soak, {minutes:g} minutes",
        asked_per_second=per_second,
        purchases=traded.purchases,
        late=traded.late,
        unanswered=traded.unanswered,
        answers=statuses,
    )
    begin, end = 120.0 if minutes > 3 else minutes * 15, minutes * 60
    span = min(30.0, begin)
    for name in sampled.processes[-1][1]:
        memory = [(at, used[name].memory_mb) for at, used in sampled.processes if name in used]
        descriptors = [(at, float(used[name].descriptors)) for at, used in sampled.processes if name in used]
        report.add(
            f"  {name}",
            memory_mb=soaking.between(memory, begin, begin + span),
            at_the_end=soaking.between(memory, end - span, end),
            growth=soaking.between(memory, end - span, end) / soaking.between(memory, begin, begin + span) - 1,
            descriptors=soaking.between(descriptors, begin, begin + span),
            of_them_at_the_end=soaking.between(descriptors, end - span, end),
        )
    report.add(
        "  connections to PostgreSQL",
        count=soaking.between(sampled.connections, begin, begin + span),
        at_the_end=soaking.between(sampled.connections, end - span, end),
    )
    ages = sorted(sampled.outbox_age_seconds)
    report.add("  outbox age, s", p50=ages[len(ages) // 2], p99=ages[int(len(ages) * 0.99)], max=ages[-1])


def client(world: World) -> httpx.AsyncClient:
    """Return a client of somebody new who is signed in."""
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{world.port}", cookies={"session": world.token()}, timeout=30)
