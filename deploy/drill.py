"""Restores one service's database to an earlier point, and repairs the marketplace by a replay.

    python -m deploy.drill [SERVICE]

People trade, the database is saved, people trade on. Then the service stops, the saved database replaces its database,
the service starts, every stored event is published again, and the invariants are checked until all of them hold.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import asyncpg
import uvloop

from admitone.kernel.database.pool import Database
from admitone.kernel.messaging import outbox
from admitone.local.postgres import binaries
from admitone.payments import store as payments
from admitone.registry import SERVICES
from deploy.marketplace import REPLICAS, Marketplace, prepared_marketplace, running
from deploy.traders import Traders

_SALES: Final = 6
_DEADLINE_SECONDS: Final = 180.0


async def trade(market: Marketplace, name: str) -> None:
    traders = Traders(market.settings.public_origin)
    await traders.trade(name, _SALES)
    assert not traders.failures, traders.failures


async def run_program(name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's own programs."""
    await asyncio.to_thread(subprocess.run, [str(binaries() / name), *arguments], check=True)


async def adopt(market: Marketplace) -> None:
    """Let payments act on Stripe with the restored data, as `admitone adopt --cancel-unknown` does."""
    database = await Database.connect(market.settings.migrator_urls["payments"], application="drill", connections=2)
    async with database.transaction() as tx:
        await payments.adopt_database(tx)
        await payments.cancel_unknown_intents(tx)
    await database.close()


async def restore(market: Marketplace, service: str, saved: Path) -> None:
    """Stop the service, replace its database by the saved one, and start the service."""
    server_url = market.postgres.url()
    replicas = [each for each in market.replicas if each.service == service]
    await asyncio.gather(*(market.stop_replica(each) for each in replicas))
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"DROP DATABASE {service} WITH (FORCE)")
    await connection.close()
    await run_program("pg_restore", "--create", f"--dbname={server_url}", str(saved))
    if service == "payments":
        await adopt(market)
    for _ in range(REPLICAS):
        await market.start_replica(service)


async def replay_all(market: Marketplace) -> int:
    """Publish every stored event again, as `admitone replay` does."""
    events = 0
    for service in (each for each in SERVICES if each.publications):
        url = market.settings.database_url(service.name)
        database = await Database.connect(url, application="drill", connections=2)
        async with database.transaction() as tx:
            await tx.execute("SET LOCAL statement_timeout = 0")
            events += await outbox.replay(tx)
        await database.close()
    return events


async def drill(market: Marketplace, service: str, saved: Path) -> list[str]:
    """Run the drill and return the invariants that are still broken after the deadline."""
    async with running(market):
        await trade(market, "before")
        url = f"{market.postgres.url().rpartition('/')[0]}/{service}"
        await run_program("pg_dump", "--format=custom", f"--file={saved}", url)
        await trade(market, "after")
        began = time.monotonic()
        await restore(market, service, saved)
        print(f"{service} was unavailable for {time.monotonic() - began:.1f} s and is restored", flush=True)
        print("broken now:", await market.broken_invariants(grace_seconds=5) or "nothing", flush=True)
        print(f"{await replay_all(market)} events are published again", flush=True)
        began = time.monotonic()
        while broken := await market.broken_invariants(grace_seconds=5):
            if time.monotonic() - began > _DEADLINE_SECONDS:
                return broken
        print(f"every invariant holds after {time.monotonic() - began:.1f} s")
        return []


def main(service: str) -> int:
    with tempfile.TemporaryDirectory(prefix="admitone-drill-") as folder:
        # PostgreSQL may run as `nobody`, who must be able to enter the folder.
        Path(folder).chmod(0o711)
        with prepared_marketplace(Path(folder) / "data", ADMITONE_ORDER_WINDOW_SECONDS="20") as market:
            broken = uvloop.run(drill(market, service, Path(folder) / "saved"))
    if broken:
        print("still broken:", *broken, sep="\n  ")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "expiration"))
