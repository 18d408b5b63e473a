"""Poison: one event in a thousand cannot be consumed; the others must not be slower for it, and none may be lost.

A trigger in orders' database refuses it, as a mistake in a handler or a table would; dropping the trigger is the fix.
"""

import asyncio
import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from admitone.kernel.ids import new_id
from proof.load import generator
from proof.load.generator import quantile, request
from proof.load.report import counted
from proof.load.speed import Bench, consumed_after_ms
from proof.marketplace import Marketplace
from proof.waiting import until

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


async def _list_tickets(
    marketplace: Marketplace, count: int, per_second: float, one_in: int | None = None
) -> tuple[Sequence[UUID], Sequence[float]]:
    """List tickets at a pace, every so many of them poison, and wait until orders has consumed all the others.

    Return the poison, and how long the others took, in milliseconds.
    """
    sellers = [marketplace.token(new_id()) for _ in range(_SELLERS)]
    titles = [POISON if one_in and number % one_in == one_in // 2 else "Fado night" for number in range(count)]
    requests = [
        request("POST", "/api/tickets", token=seller, body=json.dumps({"title": title, "price": 20}).encode())
        for seller, title in zip(itertools.cycle(sellers), titles, strict=False)
    ]
    options: dict[str, Any] = {"connections": 16, "seconds": 10 * count / per_second, "pace_per_second": per_second}
    run = await asyncio.to_thread(generator.send, marketplace.port, requests, keep_bodies=True, **options)
    tickets = [json.loads(body) for body in run.bodies]
    poison = [UUID(each["id"]) for each in tickets if each["title"] == POISON]
    good = [UUID(each["id"]) for each in tickets if each["title"] != POISON]
    sql = "SELECT id, recorded_at FROM outbox WHERE type = 'TicketCreated' AND aggregate = ANY($1::uuid[])"
    recorded = {row["id"]: row["recorded_at"] for row in await marketplace.rows("tickets", sql, good)}

    async def late_ms() -> Sequence[float] | None:
        found = await consumed_after_ms(marketplace, "orders", recorded)
        return found if len(found) == len(good) else None

    return poison, await until(late_ms, "orders has consumed the others", _SECONDS_MAX) or ()


async def prove_poison(bench: Bench) -> None:
    """The same load without and with one poisonous event in a thousand."""
    marketplace, report = bench.marketplace, bench.report
    pace = bench.options.pace or 100
    count = int(bench.seconds * pace)
    await _list_tickets(marketplace, int(10 * pace), pace)
    _, plain_ms = await _list_tickets(marketplace, count, pace)
    await marketplace.execute("orders", BREAK)
    poison, spoilt_ms = await _list_tickets(marketplace, count, pace, 1000)
    for name, late_ms in (("without poison", plain_ms), ("others, 1 in 1,000 is poison", spoilt_ms)):
        figures = {"p50_ms": quantile(late_ms, 0.5), "p99_ms": quantile(late_ms, 0.99), "max_ms": max(late_ms)}
        report.add(f"ticket to orders, {name}", **figures, events=len(late_ms))
    report.add("  p99 beside the baseline", ratio=quantile(spoilt_ms, 0.99) / quantile(plain_ms, 0.99))
    given_up = "SELECT attempts FROM dead_letter WHERE given_up_at IS NOT NULL"

    async def are_dead() -> bool:
        return len(await marketplace.rows("orders", given_up)) == len(poison)

    await until(are_dead, "the poison is given up", _SECONDS_MAX)
    dead = await marketplace.rows("orders", given_up)
    await marketplace.execute("orders", MEND)
    first, again = _retried(marketplace), _retried(marketplace)
    tickets = await marketplace.value("orders", "SELECT count(*) FROM ticket WHERE id = ANY($1)", list(poison))
    left = await marketplace.value("orders", "SELECT count(*) FROM dead_letter")
    attempts = counted(Counter(each["attempts"] for each in dead))
    report.add("  dead letters", events=len(dead), of=len(poison), attempts=attempts)
    report.add("  retried after the fix", first=first, again=again, tickets=tickets, left=left)


def _retried(marketplace: Marketplace) -> str:
    """Run `admitone dead-letters retry --all` as an operator would; return its last line."""
    command = [sys.executable, "-m", "admitone", "dead-letters", "retry", "--all"]
    done = subprocess.run(command, env=marketplace.environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]
