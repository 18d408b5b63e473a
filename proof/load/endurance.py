"""What a marketplace must bear: a storm of old events, poison, a stampede for one ticket, and minutes of trade."""

import json
import statistics
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

from admitone.kernel.http.operations import CREATED
from admitone.kernel.ids import new_id
from admitone.registry import SERVICES
from proof.clients import user_id_of
from proof.endings import Cast, every_ending
from proof.history import ClientHistory
from proof.load import generator, poison
from proof.load.generator import Measured
from proof.load.report import Report
from proof.load.soak import Samples, median_between, most_per_second, soak
from proof.load.speed import reservations
from proof.load.storm import digests, history, publish_again
from proof.marketplace import Marketplace, settled

_REFUSED: Final = 400


async def run_storm(marketplace: Marketplace, report: Report, chosen: Namespace) -> None:
    """Bring purchases to every kind of end, then consume all their events again and again."""
    done: Counter[str] = Counter()
    async with marketplace.people(3) as people:
        while await _events(marketplace) < chosen.events:
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


async def _events(marketplace: Marketplace) -> int:
    counts = [
        await marketplace.value(each.name, "SELECT count(*) FROM outbox") for each in SERVICES if each.publications
    ]
    return sum(counts)


async def run_poison(marketplace: Marketplace, report: Report, chosen: Namespace) -> None:
    """The same load without and with one poisonous event in a thousand."""
    pace = chosen.pace or 100
    count = int(chosen.seconds * pace)
    await poison.list_tickets(marketplace, int(10 * pace), pace, None)
    plain = await poison.list_tickets(marketplace, count, pace, None)
    await marketplace.execute("orders", poison.BREAK)
    spoilt = await poison.list_tickets(marketplace, count, pace, 1000)
    for name, each in (("without poison", plain), ("others, 1 in 1,000 is poison", spoilt)):
        figures = {"p50_ms": each.quantile_ms(0.5), "p99_ms": each.quantile_ms(0.99), "max_ms": each.late_ms[-1]}
        report.add(f"ticket to orders, {name}", **figures, events=len(each.late_ms))
    report.add("  p99 beside the baseline", ratio=spoilt.quantile_ms(0.99) / plain.quantile_ms(0.99))
    letters = await poison.dead_letters(marketplace, len(spoilt.poison))
    attempts = Counter(each["attempts"] for each in letters)
    text = " ".join(f"{count}x{attempts}" for attempts, count in attempts.items())
    await marketplace.execute("orders", poison.MEND)
    first, again = _retried(marketplace), _retried(marketplace)
    tickets = await marketplace.value("orders", "SELECT count(*) FROM ticket WHERE id = ANY($1)", list(spoilt.poison))
    left = await marketplace.value("orders", "SELECT count(*) FROM dead_letter")
    report.add("  dead letters", letters=len(letters), of=len(spoilt.poison), attempts=text)
    report.add("  retried after the fix", first=first, again=again, tickets=tickets, left=left)


def _retried(marketplace: Marketplace) -> str:
    """Run `admitone dead-letters retry --all` as an operator would; return its last line."""
    command = [sys.executable, "-m", "admitone", "dead-letters", "retry", "--all"]
    done = subprocess.run(command, env=marketplace.environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


async def run_stampede(marketplace: Marketplace, report: Report, chosen: Namespace) -> None:
    """One ticket and a thousand buyers at the same moment, in rounds: one gets it, and all others are refused."""
    tokens = [marketplace.token(new_id()) for _ in range(chosen.buyers)]
    slowest_ms: list[float] = []
    async with marketplace.people(1) as [seller]:
        for number in range(1, chosen.rounds + 1):
            ticket = await seller.list_ticket("The hot one")
            assert ticket is not None
            await seller.reserve(ticket)  # refused to its seller, as soon as orders knows the ticket
            requests = reservations([ticket.id] * len(tokens), tokens)
            run = generator.send(marketplace.port, requests, connections=len(tokens), keep_bodies=True)
            _record(seller.history, run, ticket.id, tokens)
            slowest_ms.append(run.quantile_ms(0.99))
            winners, refused = run.statuses[CREATED], run.statuses[_REFUSED]
            report.add(f"round {number}", winners=winners, refused=refused, all_within_s=run.seconds)
            assert (winners, refused) == (1, len(tokens) - 1), run.statuses
        findings = await marketplace.check(seller.history.records, 60)
    report.add("99 of 100 responses, median round", within_ms=statistics.median(slowest_ms))
    broken = [f"{each.id}: {each.samples()}" for each in findings if not each.holds]
    report.add("violations", violations=", ".join(broken) or "none")
    assert not broken


def _record(history: ClientHistory, run: Measured, ticket: UUID, tokens: Sequence[str]) -> None:
    """Add a round of the stampede to the client history."""
    made = [json.loads(each) for each in run.bodies if b'"status":"created"' in each]
    winners = {UUID(order["userId"]): UUID(order["id"]) for order in made}
    for user_id in map(user_id_of, tokens):
        status = CREATED if user_id in winners else _REFUSED
        history.record("order", user_id, status, CREATED, ticket=ticket, order=winners.get(user_id))


async def run_soak(marketplace: Marketplace, report: Report, chosen: Namespace) -> None:
    """Trade for minutes at a steady pace; what is ours must be as large at the end as after two minutes."""
    pace = chosen.pace
    if not pace:
        most = await most_per_second(marketplace)
        report.add("purchases that can be served", per_second=most)
        pace = most / 2
    end = chosen.minutes * 60
    trade, sampled = await soak(marketplace, pace, end)
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


Proof = Callable[[Marketplace, Report, Namespace], Awaitable[None]]
# Each with the arguments and the environment of its marketplace. Unpaid reservations of a storm expire soon, or its
# history would take a quarter of an hour to end.
PROOFS: Final[dict[str, tuple[Proof, tuple[str, ...], dict[str, str]]]] = {
    "storm": (run_storm, (), {"ADMITONE_ORDER_WINDOW_SECONDS": "10"}),
    "poison": (run_poison, (), {}),
    "stampede": (run_stampede, ("--processes",), {"ADMITONE_ORDER_WINDOW_SECONDS": "900"}),
    "soak": (run_soak, (), {}),
}
