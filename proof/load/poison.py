"""Poison: one event in a thousand cannot be taken in; the others must not be slower for it, and none may be lost.

A trigger in orders' own database refuses it, as a mistake in a handler or a table would; dropping that is the fix.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from admitone.kernel import clock
from proof.load import generator as load
from proof.load.generator import Measured, request
from proof.load.world import World, tokens

POISON: Final = "Poison"
# What nobody can take in: the replica of such a ticket.
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
_GIVEN_UP_WITHIN_SECONDS: Final = 120.0
_LOOKS_AGAIN_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Listed:
    """Tickets that were listed, how the requests went, and how long each took to reach orders, in milliseconds."""

    run: Measured
    poison: Sequence[UUID]
    late_ms: Sequence[float]

    def quantile_ms(self, share: float) -> float:
        return self.late_ms[min(int(len(self.late_ms) * share), len(self.late_ms) - 1)]


async def listed(world: World, count: int, per_second: float, one_in: int | None) -> Listed:
    """List tickets at a pace, every so many of them poison; wait until orders has taken in all the others."""
    sellers = tokens(world, _SELLERS)
    bodies = [
        json.dumps(
            {"title": POISON if one_in and number % one_in == one_in // 2 else "Fado night", "price": 20}
        ).encode()
        for number in range(count)
    ]
    run = await asyncio.to_thread(
        load.run,
        world.port,
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
    return Listed(run, poison, await _late_ms(world, good))


async def _late_ms(world: World, tickets: Sequence[UUID]) -> list[float]:
    told = {
        row["id"]: row["recorded_at"]
        for row in await world.rows(
            "tickets",
            "SELECT id, recorded_at FROM outbox WHERE type = 'TicketCreated' AND aggregate = ANY($1::uuid[])",
            list(tickets),
        )
    }
    until = clock.monotonic_seconds() + _GIVEN_UP_WITHIN_SECONDS
    while True:
        heard = await world.rows("orders", "SELECT id, received_at FROM inbox WHERE id = ANY($1::uuid[])", list(told))
        if len(heard) == len(tickets):
            return sorted((row["received_at"] - told[row["id"]]).total_seconds() * 1000 for row in heard)
        assert clock.monotonic_seconds() < until, f"orders took in {len(heard)} of {len(tickets)} events"
        await asyncio.sleep(_LOOKS_AGAIN_SECONDS)


async def given_up(world: World, poison: Sequence[UUID]) -> list[asyncpg.Record]:
    """Wait until every poisonous event is a dead letter; return those letters."""
    until = clock.monotonic_seconds() + _GIVEN_UP_WITHIN_SECONDS
    while True:
        letters = await world.rows("orders", "SELECT id, attempts FROM dead_letter WHERE given_up_at IS NOT NULL")
        if len(letters) == len(poison):
            return letters
        assert clock.monotonic_seconds() < until, f"{len(letters)} dead letters of {len(poison)}"
        await asyncio.sleep(_LOOKS_AGAIN_SECONDS)


def retried(world: World) -> str:
    """Run `admitone dead-letters retry --all` as an operator would; return its last line."""
    done = subprocess.run(
        [sys.executable, "-m", "admitone", "dead-letters", "retry", "--all"],
        env={**os.environ, "ADMITONE_DATA": world.settings.data},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]
