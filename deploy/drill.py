"""Brings one service's database back to a moment ago, and the marketplace back in order: a restore that was practised.

    python -m deploy.drill [SERVICE]

People trade, the database is saved, people trade on; then the service stops, its database becomes what it was, the
service starts, everything that is still kept is told again, and the invariants are asked until all of them hold.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import uvloop

from admitone.kernel.database.pool import Database
from admitone.kernel.messaging import outbox
from admitone.local.postgres import binaries
from admitone.registry import SERVICES
from deploy.marketplace import REPLICAS, Marketplace, prepared, running
from deploy.rolling import PASSWORD, Load

SALES = 6
DEADLINE_SECONDS = 180.0


async def trade(market: Marketplace, round_name: str) -> None:
    """Let some tickets be held, and some of these be paid for."""
    load = Load(market.settings.public_origin)
    async with (
        httpx.AsyncClient(base_url=load.origin, timeout=20) as seller,
        httpx.AsyncClient(base_url=load.origin, timeout=20) as buyer,
    ):
        for person, name in ((seller, "alice"), (buyer, "bob")):
            body = {"email": f"{name}-{round_name}@example.com", "password": PASSWORD}
            await load.ask(person, "POST", "/api/users/signup", json=body)
        for number in range(SALES):
            await load.one_sale(seller, buyer, pays=number % 2 == 0)
    assert not load.failures, load.failures


def server_program(name: str, *words: str) -> None:
    subprocess.run([str(binaries() / name), *words], check=True)


async def restore(market: Marketplace, service: str, saved: Path) -> float:
    """Stop the service, put the saved database in place, start the service; return how long it was away."""
    began = time.monotonic()
    server_url = market.servers["postgres"].url()  # type: ignore[attr-defined]
    for replica in [each for each in market.replicas if each.service == service]:
        await asyncio.to_thread(replica.program.stop)
        market.rotation.replicas[service].remove(replica.url)
        market.replicas.remove(replica)
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"DROP DATABASE {service} WITH (FORCE)")
    await connection.close()
    await asyncio.to_thread(server_program, "pg_restore", "--create", f"--dbname={server_url}", str(saved))
    for number in range(REPLICAS):
        await market.begin(service, 1000 + number)
    return time.monotonic() - began


async def replay_all(market: Marketplace) -> int:
    """Do what `admitone replay` does."""
    told = 0
    for service in (each for each in SERVICES if each.publications):
        database = await Database.connect(
            market.settings.database_url(service.name), application="drill", connections=2
        )
        async with database.transaction() as tx:
            await tx.execute("SET LOCAL statement_timeout = 0")
            told += await outbox.replay(tx)
        await database.close()
    return told


async def main(market_of: Any, service: str, folder: Path) -> int:
    async with running(*market_of) as market:
        await trade(market, "before")
        saved = folder / "saved"
        url = market.servers["postgres"].url().rpartition("/")[0]  # type: ignore[attr-defined]
        await asyncio.to_thread(server_program, "pg_dump", "--format=custom", f"--file={saved}", f"{url}/{service}")
        await trade(market, "after")
        print(f"{service} is {await restore(market, service, saved):.1f} s away and comes back as it was", flush=True)
        print("broken now:", await market.broken_invariants(grace_seconds=5) or "nothing", flush=True)
        print(f"{await replay_all(market)} events are told again", flush=True)
        began = time.monotonic()
        while broken := await market.broken_invariants(grace_seconds=5):
            if time.monotonic() - began > DEADLINE_SECONDS:
                print("still broken:", *broken, sep="\n  ")
                return 1
    print(f"every invariant holds after {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "expiration"
    with tempfile.TemporaryDirectory(prefix="admitone-drill-") as made:
        Path(made).chmod(0o711)
        with prepared(Path(made) / "data", order_window_seconds=20) as found:
            sys.exit(uvloop.run(main(found, wanted, Path(made))))
