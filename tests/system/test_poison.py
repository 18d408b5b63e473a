"""One event that cannot be handled does not delay the others, and takes effect once when its cause is removed."""

import os
import subprocess
import sys
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from admitone.kernel.messaging import dead_letters
from admitone.kernel.messaging.inbox import ATTEMPTS_MAX, Inbox
from admitone.local.postgres import Postgres
from proof.load.poison import BREAK, MEND, POISON
from tests import engines
from tests.kernel.support import SHORT_DELAYS_SECONDS
from tests.support import StartNats, eventually
from tests.system.support import WITH_MONEY, Market, marketplace

TICKETS = 300
POISONOUS = (40, 150, 151)


async def changed_by_owner(postgres: Postgres, market: Market, sql: str) -> None:
    """Change something about orders' tables; the service itself has no right to."""
    name = urlsplit(market.database("orders").url).path.removeprefix("/")
    connection = await asyncpg.connect(f"{postgres.url().rpartition('/')[0]}/{name}")
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def retried(market: Market) -> str:
    """Run `admitone dead-letters retry --all` for orders; return its last line."""
    done = subprocess.run(
        [sys.executable, "-m", "admitone", "dead-letters", "retry", "--all", "--service", "orders"],
        env={**os.environ, "ADMITONE_ORDERS_DATABASE_URL": market.database("orders").url, "ADMITONE_DATA": os.devnull},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.splitlines()[-1]


async def listed(seller: httpx.AsyncClient, title: str) -> str:
    answer = await seller.post("/api/tickets", json={"title": title, "price": 20})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def test_s15_poison_stops_nobody_and_has_its_effect_once_after_the_fix(
    postgres: Postgres, databases: engines.Databases, start_nats: StartNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Five attempts, without the half minute that lies between them.
    monkeypatch.setattr(Inbox, "delays_seconds", SHORT_DELAYS_SECONDS)
    async with marketplace(databases, start_nats, *WITH_MONEY) as market:
        orders = market.database("orders")
        await changed_by_owner(postgres, market, BREAK)
        async with market.person("alice") as alice, market.person("bob") as bob:
            titles = [POISON if number in POISONOUS else "Fado night" for number in range(TICKETS)]
            tickets = [await listed(alice, title) for title in titles]
            poisonous = [ticket for ticket, title in zip(tickets, titles, strict=True) if title == POISON]

            async def others_are_here() -> bool:
                return bool(await orders.fetchval("SELECT count(*) FROM ticket") == TICKETS - len(POISONOUS))

            async def is_given_up() -> list[dead_letters.DeadLetter] | None:
                found = await dead_letters.find_all(orders)
                return found if len(found) == len(POISONOUS) else None

            await eventually(others_are_here, "orders knows every other ticket", 30)
            given_up = await eventually(is_given_up, "the poison is given up", 30)
            assert {each.attempts for each in given_up} == {ATTEMPTS_MAX}
            assert all("cannot stomach this" in each.error for each in given_up)
            refused = await bob.post("/api/orders", json={"ticketId": poisonous[0]})
            assert refused.status_code == 404

            await changed_by_owner(postgres, market, MEND)
            assert retried(market) == "3 handled, 0 failed again"
            assert retried(market) == "0 handled, 0 failed again"

            assert await dead_letters.find_all(orders) == []
            versions = await orders.fetch("SELECT version FROM ticket WHERE id = ANY($1)", poisonous)
            assert [row["version"] for row in versions] == [0, 0, 0]
            await market.reserves(bob, {"id": poisonous[0]})
            await market.settled()
            await market.is_sound()
