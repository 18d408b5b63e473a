"""What the marketplace can do in a second, beside what the database alone can do."""

import asyncio
import json
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from admitone.kernel.http.operations import CREATED
from admitone.kernel.ids import new_id
from proof.clients import user_id_of
from proof.load import generator
from proof.load.filling import Filler
from proof.load.generator import Measured, quantile, request
from proof.load.limits import Limit
from proof.load.report import Report
from proof.load.usage import usage_by_program
from proof.marketplace import Marketplace
from proof.people import GOOD_CARD, PASSWORD

CLIENTS: Final = 64
_UNAVAILABLE: Final = 503
_SOLD_TWICE: Final = """
SELECT count(*) FROM (
    SELECT FROM orders WHERE status <> 'cancelled' GROUP BY ticket_id HAVING count(*) > 1
) AS twice
"""


@dataclass
class Bench:
    """A marketplace to measure, what fills it, where the figures go, and the options of the command line."""

    marketplace: Marketplace
    report: Report
    options: Namespace

    def __post_init__(self) -> None:
        self.filler = Filler(self.marketplace)
        self.seconds: int = self.options.seconds

    def tokens(self, count: int) -> list[str]:
        """Return the sessions of new people."""
        return [self.marketplace.token(new_id()) for _ in range(count)]

    def send(self, requests: Sequence[bytes], *, connections: int = CLIENTS, **options: Any) -> Measured:
        return generator.send(self.marketplace.port, requests, connections=connections, **options)

    def read(self, path: str, token: str | None = None, headers: Sequence[tuple[str, str]] = ()) -> Measured:
        """Read one path again and again."""
        wanted = [request("GET", path, token=token, headers=headers)]
        return self.send(wanted, seconds=self.seconds, repeat=True)

    async def reserve(self, tokens: Sequence[str], *, seconds: int = 0, **options: Any) -> Measured:
        """Reserve distinct tickets for some seconds."""
        seconds = seconds or self.seconds
        tickets = await self.filler.list_tickets(5000 * seconds)
        return self.send(reservations(tickets, tokens), seconds=seconds, **options)

    def add_memory(self, when: str) -> None:
        used = usage_by_program(self.marketplace.pid)
        self.report.add(f"memory, {when}, MB", **{name: each.memory_mb for name, each in used.items()})


def reservations(tickets: Sequence[UUID], tokens: Sequence[str]) -> list[bytes]:
    """Return a request to reserve each ticket, by one person after another."""
    return [
        request(
            "POST", "/api/orders", token=tokens[number % len(tokens)], body=b'{"ticketId":"%b"}' % str(each).encode()
        )
        for number, each in enumerate(tickets)
    ]


async def consumed_after_ms(
    marketplace: Marketplace, service: str, recorded: Mapping[UUID, datetime]
) -> Sequence[float]:
    """Return how long after its producer's transaction each of these events was consumed, if it was."""
    sql = "SELECT id, received_at FROM inbox WHERE id = ANY($1::uuid[])"
    rows = await marketplace.rows(service, sql, list(recorded))
    return [(row["received_at"] - recorded[row["id"]]).total_seconds() * 1000 for row in rows]


async def signin(bench: Bench) -> None:
    """Sign in as often as possible, and read the list meanwhile: hashing must not keep the rest waiting."""
    people = [json.dumps({"email": f"load{n}@example.com", "password": PASSWORD}).encode() for n in range(32)]
    bench.send([request("POST", "/api/users/signup", body=each) for each in people], connections=4)
    signing_in = [request("POST", "/api/users/signin", body=each) for each in people]
    await bench.filler.list_tickets(1000)
    bench.report.add_measured("list, alone", bench.read("/api/tickets"))
    signed_in, read = await asyncio.gather(
        asyncio.to_thread(bench.send, signing_in, connections=32, seconds=bench.seconds, repeat=True),
        asyncio.to_thread(bench.read, "/api/tickets"),
    )
    bench.report.add_measured("sign-in, 32 at once", signed_in)
    bench.report.add_measured("list, beside 32 who sign in", read)


async def reads(bench: Bench) -> None:
    """Lists of 50, a search, one ticket, one's own orders."""
    [ticket, *_] = await bench.filler.list_tickets(1000)
    bench.report.add_measured("list of 50, JSON", bench.read("/api/tickets"))
    bench.report.add_measured("search, JSON", bench.read("/api/tickets?q=fado"))
    bench.report.add_measured("by price, JSON", bench.read("/api/tickets?sort=price"))
    bench.report.add_measured("one ticket", bench.read(f"/api/tickets/{ticket}"))
    bench.report.add_measured("my orders", bench.read("/api/orders", bench.tokens(1)[0]))
    bench.report.add_measured("list of 50, HTML", bench.read("/", headers=[("Accept", "text/html")]))


async def reserve(bench: Bench) -> None:
    """Distinct tickets, everything of ours running, beside pgbench's limit before and after."""
    limit, seconds, marketplace = Limit(bench.marketplace), bench.seconds, bench.marketplace
    await limit.prepare(CLIENTS)
    tokens = bench.tokens(500)
    before = limit.reserve_per_second(CLIENTS, seconds)
    tickets = await bench.filler.list_tickets(6000 * seconds)
    bench.send(reservations(tickets[:500], tokens))  # warm-up
    await marketplace.applied()
    used = usage_by_program(marketplace.pid)
    run = bench.send(reservations(tickets[500:], tokens), seconds=seconds)
    applied_seconds = await marketplace.applied()
    cpu_ms = {
        name: (now.cpu_seconds - used[name].cpu_seconds) * 1000 / max(run.statuses[CREATED], 1)
        for name, now in usage_by_program(marketplace.pid).items()
        if name in used
    }
    after = limit.reserve_per_second(CLIENTS, seconds)
    mean = (before + after) / 2
    bench.report.add("limit: reserve by pgbench", per_second=mean, before=before, after=after)
    bench.report.add_measured(
        "reserve, distinct tickets", run, share_of_limit=run.per_second / mean, applied_s=applied_seconds
    )
    bench.report.add("  processor ms per reservation", **cpu_ms)
    bench.report.add("  sold twice, by rows", count=float(await marketplace.value("orders", _SOLD_TWICE)))


async def race(bench: Bench) -> None:
    """1,000 buyers at once for 100 tickets, each on their own connection, each trying three of the tickets."""
    tickets, tokens = await bench.filler.list_tickets(100), bench.tokens(1000)
    wanted = [tickets[(number * 7 + turn) % 100] for turn in range(3) for number in range(len(tokens))]
    run = bench.send(reservations(wanted, tokens), connections=1000, keep_bodies=True)
    sold = [json.loads(body)["ticket"]["id"] for body in run.bodies if b'"status":"created"' in body]
    rows = await bench.marketplace.value(
        "orders", "SELECT count(*) FROM orders WHERE ticket_id = ANY($1) AND status = 'created'", tickets
    )
    bench.report.add_measured(
        "1,000 buyers, 100 tickets",
        run,
        sold_out_after_s=run.last_seconds.get(CREATED, 0.0),
        all_answered_after_s=run.seconds,
        sold=float(len(set(sold))),
        twice_by_responses=float(len(sold) - len(set(sold))),
        rows=float(rows),
    )
    await bench.marketplace.applied()


async def hot(bench: Bench) -> None:
    """5,000 requests for one ticket."""
    tickets = await bench.filler.list_tickets(1)
    run = bench.send(reservations(tickets * 5000, bench.tokens(500)))
    bench.report.add_measured("one hot ticket, 5,000 tries", run)


async def purchases(bench: Bench, count: int = 1000) -> None:
    """Order → pay → complete, with every event applied everywhere."""
    tickets, tokens = await bench.filler.list_tickets(count), bench.tokens(count)
    ordered = bench.send(reservations(tickets, tokens), keep_bodies=True)
    made = {order["userId"]: order["id"] for order in map(json.loads, ordered.bodies) if "userId" in order}
    payments = [
        request("POST", "/api/payments", token=token, body=json.dumps({"orderId": order, "token": GOOD_CARD}).encode())
        for token in tokens
        if (order := made.get(str(user_id_of(token)))) is not None
    ]
    paid = bench.send(payments)
    bench.report.add_measured("  pay", paid)
    value, elapsed, complete, sold = bench.marketplace.value, 0.0, 0, 0
    while not complete == sold == count and elapsed < 120:
        await asyncio.sleep(0.02)
        sql = "SELECT count(*) FROM orders WHERE status = 'complete' AND ticket_id = ANY($1)"
        complete = await value("orders", sql, tickets)
        sold = await value("tickets", "SELECT count(*) FROM ticket WHERE status = 'sold' AND id = ANY($1)", tickets)
        elapsed = ordered.seconds + time.time() - paid.began_at
    bench.report.add("order, pay, complete", per_second=count / elapsed, complete=complete, sold=sold, of=count)


async def replicas(bench: Bench) -> None:
    """From the order's transaction to the one that applied it elsewhere, at 200 orders a second."""
    tickets = await bench.filler.list_tickets(200 * bench.seconds)
    run = bench.send(reservations(tickets, bench.tokens(200)), connections=32, pace_per_second=200)
    await bench.marketplace.applied()
    sql = "SELECT id, recorded_at FROM outbox ORDER BY position DESC LIMIT $1"
    recorded = {row["id"]: row["recorded_at"] for row in await bench.marketplace.rows("orders", sql, len(tickets))}
    for service in ("tickets", "expiration", "payments"):
        late_ms = await consumed_after_ms(bench.marketplace, service, recorded)
        p50_ms, p99_ms = quantile(late_ms, 0.5), quantile(late_ms, 0.99)
        bench.report.add(f"commit to {service}, 200 orders/s", p50_ms=p50_ms, p99_ms=p99_ms, events=len(late_ms))
    bench.report.add_measured("  the orders themselves", run)


async def overload(bench: Bench) -> None:
    """Twice what can be served: what is served stays fast, the rest is refused fast, and then all is as before."""
    report, tokens, marketplace = bench.report, bench.tokens(500), bench.marketplace
    at_capacity = await bench.reserve(tokens)
    capacity = at_capacity.statuses[CREATED] / at_capacity.seconds
    report.add_measured("reserve, as many as can be served", at_capacity)
    await marketplace.applied()
    run = await bench.reserve(tokens, connections=4000, pace_per_second=2 * capacity)
    served = run.statuses[CREATED] / run.seconds
    report.add_measured("reserve, twice as many requests", run, served_per_second=served, of_capacity=served / capacity)
    quantiles = {
        f"{name}_p{share * 100:.0f}_ms": run.quantile_ms(share, status)
        for name, status in (("served", CREATED), ("refused", _UNAVAILABLE))
        for share in (0.5, 0.99)
    }
    report.add("  responses", **quantiles)
    report.add_measured("  right afterwards", await bench.reserve(tokens, seconds=1))
    applied_seconds = await marketplace.applied()
    run = await bench.reserve(tokens, connections=4000)
    served = run.statuses[CREATED] / run.seconds
    report.add_measured(
        "reserve, 4,000 who never wait", run, served_per_second=served, applied_before_s=applied_seconds
    )
    await marketplace.applied()


async def growth(bench: Bench) -> None:
    """The same work with more and more tickets on sale, and as many sold before: what is flat stays flat.

    Each figure is the best of three: the machine's other work only ever makes it slower.
    """
    bench.seconds = 2
    listed, tokens, buyer = 0, bench.tokens(200), new_id()
    first: dict[str, float] = {}
    single = bench.filler.next_number + 2 * bench.options.sizes[0] - 1
    paths = {
        "list": "/api/tickets?limit=50",
        "by price": "/api/tickets?sort=price",
        "search, one in five": "/api/tickets?q=harbour+derby",
        "search, one in a hundred": "/api/tickets?q=c17",
        "search, a single one": f"/api/tickets?q={single}",
    }
    figures: dict[str, Callable[[], Measured]] = {name: partial(bench.read, path) for name, path in paths.items()}
    figures["my orders"] = partial(bench.read, "/api/orders?limit=20", bench.marketplace.token(buyer))
    for size in bench.options.sizes:
        await bench.filler.sell_tickets(size - listed, buyer)
        await bench.filler.list_tickets(size - listed)
        await bench.filler.checkpoint()
        listed = size
        runs: list[dict[str, Measured]] = []
        for _ in range(3):
            reserved = await bench.reserve(tokens)
            await bench.marketplace.applied()
            runs.append({"reserve": reserved} | {name: measure() for name, measure in figures.items()})
        for name in runs[0]:
            best = max((run[name] for run in runs), key=lambda each: each.per_second)
            share = best.per_second / first.setdefault(name, best.per_second)
            bench.report.add_measured(f"{name}, {size:,} tickets", best, of_the_smallest=share)


PARTS: Final[dict[str, Callable[[Bench], Awaitable[None]]]] = {
    each.__name__: each for each in (signin, reads, reserve, race, hot, purchases, replicas, overload, growth)
}
