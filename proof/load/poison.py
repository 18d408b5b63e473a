"""Poison: one event in a thousand cannot be consumed; the others must not be slower for it, and none may be lost.

A trigger in orders' database refuses it, as a mistake in a handler or a table would; dropping the trigger is the fix.
"""

import asyncio
import json
import subprocess
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from admitone.kernel.ids import new_id
from proof.load import generator
from proof.load.generator import request
from proof.load.report import Report
from proof.marketplace import Marketplace

POISON: Final = "Poison"
# No replica of such a ticket can be stored.
BREAK: Final = f"""
CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'cannot stomach this' USING ERRCODE = 'XX000';
END $$;
CREATE TRIGGER poison BEFORE INSERT ON ticket FOR EACH ROW WHEN (new.title = '{POISON}')
    EXECUTE FUNCTION refuse_poison();
"""
MEND: Final = "DROP TRIGGER poison ON ticket; DROP FUNCTION refuse_poison()"

_SELLERS: Final = 50
_SECONDS_MAX: Final = 120.0
_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class _Arrivals:
    """How long tickets took to reach orders, in milliseconds, and which of them were poison."""

    poison: Sequence[UUID]
    late_ms: Sequence[float]

    def quantile_ms(self, share: float) -> float:
        return self.late_ms[min(int(len(self.late_ms) * share), len(self.late_ms) - 1)]


async def _list_tickets(marketplace: Marketplace, count: int, per_second: float, one_in: int | None) -> _Arrivals:
    """List tickets at a pace, every so many of them poison; wait until orders has consumed all the others."""
    sellers = [marketplace.token(new_id()) for _ in range(_SELLERS)]
    titles = [POISON if one_in and number % one_in == one_in // 2 else "Fado night" for number in range(count)]
    bodies = [json.dumps({"title": title, "price": 20}).encode() for title in titles]
    run = await asyncio.to_thread(
        generator.send,
        marketplace.port,
        [
            request("POST", "/api/tickets", token=sellers[number % _SELLERS], body=body)
            for number, body in enumerate(bodies)
        ],
        connections=16,
        seconds=10 * count / per_second,
        keep_bodies=True,
        pace_per_second=per_second,
    )
    tickets = [json.loads(body) for body in run.bodies]
    poison = [UUID(each["id"]) for each in tickets if each["title"] == POISON]
    good = [UUID(each["id"]) for each in tickets if each["title"] != POISON]
    return _Arrivals(poison, await _late_ms(marketplace, good))


async def _late_ms(marketplace: Marketplace, tickets: list[UUID]) -> list[float]:
    sql = "SELECT id, recorded_at FROM outbox WHERE type = 'TicketCreated' AND aggregate = ANY($1::uuid[])"
    recorded = {row["id"]: row["recorded_at"] for row in await marketplace.rows("tickets", sql, tickets)}
    consumed = await _until(
        marketplace, "SELECT id, received_at FROM inbox WHERE id = ANY($1::uuid[])", list(recorded), count=len(tickets)
    )
    return sorted((row["received_at"] - recorded[row["id"]]).total_seconds() * 1000 for row in consumed)


async def _dead_letters(marketplace: Marketplace, count: int) -> list[asyncpg.Record]:
    """Wait until so many events are dead letters; return them."""
    sql = "SELECT id, attempts FROM dead_letter WHERE given_up_at IS NOT NULL"
    return await _until(marketplace, sql, count=count)


async def _until(marketplace: Marketplace, sql: str, *arguments: object, count: int) -> list[asyncpg.Record]:
    """Return the rows of a statement on orders' database once there are so many."""
    deadline = time.monotonic() + _SECONDS_MAX
    while len(rows := await marketplace.rows("orders", sql, *arguments)) != count:
        assert time.monotonic() < deadline, f"{len(rows)} of {count} events"
        await asyncio.sleep(_POLL_SECONDS)
    return rows


async def prove_poison(marketplace: Marketplace, report: Report, chosen: Namespace) -> None:
    """The same load without and with one poisonous event in a thousand."""
    pace = chosen.pace or 100
    count = int(chosen.seconds * pace)
    await _list_tickets(marketplace, int(10 * pace), pace, None)
    plain = await _list_tickets(marketplace, count, pace, None)
    await marketplace.execute("orders", BREAK)
    spoilt = await _list_tickets(marketplace, count, pace, 1000)
    for name, each in (("without poison", plain), ("others, 1 in 1,000 is poison", spoilt)):
        figures = {"p50_ms": each.quantile_ms(0.5), "p99_ms": each.quantile_ms(0.99), "max_ms": each.late_ms[-1]}
        report.add(f"ticket to orders, {name}", **figures, events=len(each.late_ms))
    report.add("  p99 beside the baseline", ratio=spoilt.quantile_ms(0.99) / plain.quantile_ms(0.99))
    dead = await _dead_letters(marketplace, len(spoilt.poison))
    attempts = Counter(each["attempts"] for each in dead)
    text = " ".join(f"{count}x{attempts}" for attempts, count in attempts.items())
    await marketplace.execute("orders", MEND)
    first, again = _retried(marketplace), _retried(marketplace)
    tickets = await marketplace.value("orders", "SELECT count(*) FROM ticket WHERE id = ANY($1)", list(spoilt.poison))
    left = await marketplace.value("orders", "SELECT count(*) FROM dead_letter")
    report.add("  dead letters", events=len(dead), of=len(spoilt.poison), attempts=text)
    report.add("  retried after the fix", first=first, again=again, tickets=tickets, left=left)


def _retried(marketplace: Marketplace) -> str:
    """Run `admitone dead-letters retry --all` as an operator would; return its last line."""
    command = [sys.executable, "-m", "admitone", "dead-letters", "retry", "--all"]
    done = subprocess.run(command, env=marketplace.environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]
