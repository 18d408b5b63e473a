"""`python -m proof.load`: measures the marketplace, prints one table, and writes the same as JSON."""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt

from admitone.kernel.ids import new_id
from proof.load import endurance
from proof.load import generator as load
from proof.load.generator import Measured, request
from proof.load.limits import Limit
from proof.load.noise import Noise
from proof.load.report import Report
from proof.load.world import FIRST_TICKET, World, running_world, started_world, tokens

CLIENTS = 64
CREATED, UNAVAILABLE = 201, 503
PARTS = ("reads", "signin", "reserve", "race", "hot", "purchases", "replicas", "overload", "growth")
# What must be borne without harm; each takes longer than a measurement of speed, and a marketplace of its own.
PROOFS = ("storm", "poison", "soak")


def _reservations(tickets: Sequence[UUID], sessions: Sequence[str]) -> list[bytes]:
    return [
        request(
            "POST",
            "/api/orders",
            token=sessions[number % len(sessions)],
            body=b'{"ticketId":"%s"}' % str(each).encode(),
        )
        for number, each in enumerate(tickets)
    ]


async def reserve(world: World, report: Report, seconds: int) -> None:
    """Distinct tickets, everything of ours running, beside pgbench's limit before and after."""
    limit = Limit(world)
    await limit.prepare(CLIENTS, world.superuser_url)
    sessions = tokens(world, 500)
    before = limit.reserve_per_second(CLIENTS, seconds)
    tickets = await world.fill(6000 * seconds)
    warm_up = tickets[:500]
    load.run(world.port, _reservations(warm_up, sessions), connections=CLIENTS)
    await world.settled()
    cpu = world.cpu_seconds()
    run = load.run(world.port, _reservations(tickets[500:], sessions), connections=CLIENTS, seconds=seconds)
    settle = await world.settled()
    used = {
        name: (value - cpu.get(name, 0.0)) * 1000 / max(run.statuses[201], 1)
        for name, value in world.cpu_seconds().items()
    }
    after = limit.reserve_per_second(CLIENTS, seconds)
    mean = (before + after) / 2
    report.add("limit: reserve by pgbench", per_second=mean, before=before, after=after)
    report.measured("reserve, distinct tickets", run, share_of_limit=run.per_second / mean, settled_s=settle)
    report.add("  processor ms per reservation", **used)
    sold_twice = await world.value(
        "orders",
        "SELECT count(*) FROM "
        "(SELECT FROM orders WHERE status <> 'cancelled' GROUP BY ticket_id HAVING count(*) > 1) AS twice",
    )
    report.add("  sold twice, by rows", count=float(sold_twice))


async def race(world: World, report: Report) -> None:
    """1,000 buyers at once for 100 tickets, each on a connection of their own, each trying three of the tickets."""
    tickets = await world.fill(100)
    sessions = tokens(world, 1000)
    asked = [
        request(
            "POST",
            "/api/orders",
            token=session,
            body=b'{"ticketId":"%s"}' % str(tickets[(number * 7 + turn) % 100]).encode(),
        )
        for turn in range(3)
        for number, session in enumerate(sessions)
    ]
    run = load.run(world.port, asked, connections=1000, keep_bodies=True)
    sold = [json.loads(body)["ticket"]["id"] for body in run.bodies if b'"status":"created"' in body]
    rows = await world.value(
        "orders", "SELECT count(*) FROM orders WHERE ticket_id = ANY($1) AND status = 'created'", list(tickets)
    )
    report.measured(
        "1,000 buyers, 100 tickets",
        run,
        sold_out_after_s=run.last_seconds.get(CREATED, 0.0),
        all_answered_after_s=run.seconds,
        sold=float(len(set(sold))),
        twice_by_answers=float(len(sold) - len(set(sold))),
        rows=float(rows),
    )
    await world.settled()


async def hot_ticket(world: World, report: Report) -> None:
    [ticket] = await world.fill(1)
    run = load.run(world.port, _reservations([ticket] * 5000, tokens(world, 500)), connections=CLIENTS)
    report.measured("one hot ticket, 5,000 tries", run)


async def reads(world: World, report: Report, seconds: int) -> None:
    """Lists of 50, a search, one ticket, one's own orders."""
    [some, *_] = await world.fill(1)
    session = tokens(world, 1)[0]
    for name, path, headers in (
        ("list of 50, JSON", "/api/tickets", ()),
        ("search, JSON", "/api/tickets?q=fado", ()),
        ("by price, JSON", "/api/tickets?sort=price", ()),
        ("one ticket", f"/api/tickets/{some}", ()),
        ("my orders", "/api/orders", ()),
        ("list of 50, HTML", "/", (("Accept", "text/html"),)),
    ):
        run = load.run(
            world.port,
            [request("GET", path, token=session if "orders" in path else None, headers=headers)],
            connections=CLIENTS,
            seconds=seconds,
            repeat=True,
        )
        report.measured(name, run)


async def purchases(world: World, report: Report, count: int) -> None:
    """Order → pay → complete, with every event applied everywhere."""
    tickets = await world.fill(count)
    sessions = tokens(world, count)
    ordered = load.run(world.port, _reservations(tickets, sessions), connections=CLIENTS, keep_bodies=True)
    orders = [json.loads(body) for body in ordered.bodies]
    whose = {order["userId"]: order["id"] for order in orders if "userId" in order}
    payments = [
        request(
            "POST",
            "/api/payments",
            token=session,
            body=json.dumps({"orderId": whose[person], "token": "tok_visa"}).encode(),
        )
        for session, person in ((each, _subject(each)) for each in sessions)
        if person in whose
    ]
    paid = load.run(world.port, payments, connections=CLIENTS)
    report.measured("  pay", paid)
    while True:
        done = await world.value(
            "orders", "SELECT count(*) FROM orders WHERE status = 'complete' AND ticket_id = ANY($1)", list(tickets)
        )
        sold = await world.value(
            "tickets", "SELECT count(*) FROM ticket WHERE status = 'sold' AND id = ANY($1)", list(tickets)
        )
        elapsed = ordered.seconds + time.time() - paid.began_at
        if done == sold == count or elapsed > 120:
            break
        await asyncio.sleep(0.02)
    report.add(
        "order, pay, complete", per_second=count / elapsed, complete=float(done), sold=float(sold), of=float(count)
    )


async def replicas(world: World, report: Report, seconds: int) -> None:
    """From the order's transaction to the one that applied it elsewhere, at 200 orders a second."""
    tickets = await world.fill(200 * seconds)
    run = load.run(world.port, _reservations(tickets, tokens(world, 200)), connections=32, pace_per_second=200)
    await world.settled()
    told = {
        row["id"]: row["recorded_at"]
        for row in await world.rows(
            "orders", "SELECT id, recorded_at FROM outbox ORDER BY position DESC LIMIT $1", len(tickets)
        )
    }
    for service in ("tickets", "expiration", "payments"):
        heard = await world.rows(service, "SELECT id, received_at FROM inbox WHERE id = ANY($1::uuid[])", list(told))
        late = sorted((row["received_at"] - told[row["id"]]).total_seconds() * 1000 for row in heard)
        report.add(
            f"commit to {service}, 200 orders/s",
            p50_ms=late[len(late) // 2], p99_ms=late[int(len(late) * 0.99)], events=float(len(late)),
        )  # fmt: skip
    report.measured("  the orders themselves", run)


async def growth(world: World, report: Report, seconds: int, sizes: Sequence[int]) -> None:
    """The same work with more and more tickets on sale, and as many sold before: what is flat stays flat.

    Everything is measured three times, and the best counts: the machine's other work only ever makes it slower.
    """
    have = 0
    first: dict[str, float] = {}
    sessions = tokens(world, 200)
    buyer = new_id()
    reads = (
        ("list", "/api/tickets?limit=50", None),
        ("by price", "/api/tickets?sort=price", None),
        ("search, one in five", "/api/tickets?q=harbour+derby", None),
        ("search, one in a hundred", "/api/tickets?q=c17", None),
        ("search, a single one", f"/api/tickets?q={FIRST_TICKET + sizes[0] + 7}", None),
        ("my orders", "/api/orders?limit=20", world.token_of(buyer)),
    )
    for size in sizes:
        await world.fill_sold(size - have, buyer)
        await world.fill(size - have)
        await world.written()
        have = size
        best: dict[str, Measured] = {}
        for _ in range(3):
            runs = {"reserve": await _reserve_for(world, sessions, seconds, connections=CLIENTS)}
            await world.settled()
            runs |= {name: _read(world, path, seconds, token) for name, path, token in reads}
            best = {name: max(run, best.get(name, run), key=lambda each: each.per_second) for name, run in runs.items()}
        for name, run in best.items():
            share = run.per_second / first.setdefault(name, run.per_second)
            report.measured(f"{name}, {size:,} tickets", run, of_the_smallest=share)


def _read(world: World, path: str, seconds: int, token: str | None = None) -> Measured:
    wanted = [request("GET", path, token=token)]
    return load.run(world.port, wanted, connections=CLIENTS, seconds=seconds, repeat=True)


async def overload(world: World, report: Report, seconds: int) -> None:
    """Twice what can be served: what is served stays served, the rest is told so quickly, and then it is over."""
    sessions = tokens(world, 500)
    at_capacity = await _reserve_for(world, sessions, seconds, connections=CLIENTS)
    capacity = at_capacity.statuses[CREATED] / at_capacity.seconds
    report.measured("reserve, as many as can be served", at_capacity)
    await world.settled()
    run = await _reserve_for(world, sessions, seconds, connections=4000, pace_per_second=2 * capacity)
    served = run.statuses[CREATED] / run.seconds
    report.measured("reserve, twice as many asked", run, served_per_second=served, of_capacity=served / capacity)
    report.add(
        "  answers",
        served_p50_ms=run.quantile_ms(0.5, CREATED),
        served_p99_ms=run.quantile_ms(0.99, CREATED),
        refused_p50_ms=run.quantile_ms(0.5, UNAVAILABLE),
        refused_p99_ms=run.quantile_ms(0.99, UNAVAILABLE),
    )
    report.measured("  right afterwards", await _reserve_for(world, sessions, 1, connections=CLIENTS))
    settle = await world.settled()
    run = await _reserve_for(world, sessions, seconds, connections=4000)
    served = run.statuses[CREATED] / run.seconds
    report.measured("reserve, 4,000 who never wait", run, served_per_second=served, settled_before_s=settle)
    await world.settled()


async def _reserve_for(
    world: World, sessions: Sequence[str], seconds: int, *, connections: int, pace_per_second: float = 0.0
) -> Measured:
    """Reserve distinct tickets for so many seconds."""
    wanted = _reservations(await world.fill(5000 * seconds), sessions)
    return load.run(world.port, wanted, connections=connections, seconds=seconds, pace_per_second=pace_per_second)


async def sign_in(world: World, report: Report, seconds: int) -> None:
    """Sign in as often as can be, and look at the list meanwhile: hashing must not keep the rest waiting."""
    emails = [f"bench{number}@example.com" for number in range(32)]
    people = [json.dumps({"email": email, "password": "correct horse battery"}).encode() for email in emails]
    load.run(world.port, [request("POST", "/api/users/signup", body=each) for each in people], connections=4)
    wanted = [request("POST", "/api/users/signin", body=each) for each in people]
    await world.fill(1000)
    report.measured("list, alone", _read(world, "/api/tickets", seconds))
    signing_in = asyncio.to_thread(load.run, world.port, wanted, connections=32, seconds=seconds, repeat=True)
    looking = asyncio.to_thread(_read, world, "/api/tickets", seconds)
    signed_in, looked = await asyncio.gather(signing_in, looking)
    report.measured("sign-in, 32 at once", signed_in)
    report.measured("list, beside 32 who sign in", looked)


def start(report: Report) -> None:
    """Start with an empty folder, and again with what is in it then."""
    with tempfile.TemporaryDirectory(prefix="admitone-bench-", ignore_cleanup_errors=True) as data:
        for name in ("cold start", "warm start"):
            with started_world(Path(data)) as world:
                report.add(name, seconds=world.started_seconds)


def _subject(token: str) -> str:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return str(claims["sub"])


async def measure(world: World, report: Report, seconds: int, parts: Sequence[str], sizes: Sequence[int]) -> None:
    wanted = set(parts) or {*PARTS} - {"growth"}
    report.add("memory, idle, MB", **world.memory_mb())
    report.noise = Noise(lambda: sum(world.cpu_seconds().values()))
    if "signin" in wanted:
        await sign_in(world, report, seconds)
    if "reads" in wanted:
        await world.fill(1000)
        await reads(world, report, seconds)
    if "reserve" in wanted:
        await reserve(world, report, seconds)
    if "race" in wanted:
        await race(world, report)
    if "hot" in wanted:
        await hot_ticket(world, report)
    if "purchases" in wanted:
        await purchases(world, report, 1000)
    if "replicas" in wanted:
        await replicas(world, report, seconds)
    if "overload" in wanted:
        await overload(world, report, seconds)
    if "growth" in wanted:
        await growth(world, report, 2, sizes)
    report.add("memory, after load, MB", **world.memory_mb())


def prove(chosen: argparse.Namespace, report: Report) -> None:
    """Run each wanted proof in a marketplace of its own."""
    for part in chosen.parts:
        match part:
            case "storm":
                with running_world(**endurance.STORM) as world:
                    asyncio.run(endurance.storm(world, report, chosen.events, chosen.times))
            case "poison":
                with running_world() as world:
                    asyncio.run(endurance.poisoned(world, report, chosen.seconds, chosen.pace or 100))
            case "soak":
                with running_world() as world:
                    asyncio.run(endurance.soak(world, report, chosen.minutes, chosen.pace))


def main() -> None:
    reader = argparse.ArgumentParser(prog="python -m proof.load", description=__doc__)
    reader.add_argument("parts", nargs="*", choices=[*PARTS, *PROOFS, []], help="all but growth when none is named")
    reader.add_argument("--seconds", type=int, default=5, help="how long each load lasts")
    reader.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000], help="tickets, for growth")
    reader.add_argument("--events", type=int, default=10_000, help="in the history, for storm")
    reader.add_argument("--times", type=int, default=10, help="how often it is told again, for storm")
    reader.add_argument("--minutes", type=float, default=10, help="how long people trade, for soak")
    reader.add_argument("--pace", type=float, default=0, help="a second: tickets for poison, purchases for soak")
    reader.add_argument("--json", type=Path, help="write the figures to this file")
    chosen = reader.parse_args()
    report = Report()
    report.add("machine", cores=float(os.cpu_count() or 0), load=os.getloadavg()[0])
    prove(chosen, report)
    if not set(chosen.parts) & set(PROOFS):
        start(report)
        with running_world() as world:
            asyncio.run(measure(world, report, chosen.seconds, chosen.parts, chosen.sizes))
    if chosen.json:
        chosen.json.write_text(json.dumps(report.figures, indent=1))
    sys.exit(0)


if __name__ == "__main__":
    main()
