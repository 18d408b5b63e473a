"""Restarts every replica of every service under load, with a new signing key; clients must notice nothing.

    python -m deploy.rolling [REQUESTS]

Two processes of every service run behind one address. Each is replaced as in a cluster, while people list, buy, pay and
sign in. The drill fails if a request fails, a session ends, or an invariant is broken at the end.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import uvloop

from admitone.auth.tokens import new_signing_key
from admitone.local.installation import SIGNING_KEY
from admitone.registry import AUTHORITY, SERVICES
from deploy.marketplace import Marketplace, prepared_marketplace, running
from deploy.traders import Traders

_TRADERS: Final = 6


async def restart_everything(market: Marketplace, traders: Traders, requests_min: int) -> None:
    """Replace all replicas, again and again until there were enough requests, and rotate the signing key."""

    async def restart(service: str, **variables: str) -> None:
        market.settings = market.settings.with_variables(**variables)
        before, began = traders.requests, time.monotonic()
        await market.replace_replicas(service)
        seconds = time.monotonic() - began
        print(
            f"  {service:<12} {seconds:5.1f} s  {traders.requests - before:5} requests  {len(traders.failures)} failed"
        )

    auth = AUTHORITY.service
    others = [each.name for each in SERVICES if each.name != auth]
    old, new = market.settings.environment[SIGNING_KEY], new_signing_key()
    await restart(auth, **{SIGNING_KEY: old + new})  # the new key is published, the old one still signs
    for service in others:
        await restart(service)
    await restart(auth, **{SIGNING_KEY: new + old})  # the new key signs, tokens of the old one are still valid
    while traders.requests < requests_min:
        for service in others:
            await restart(service)


async def drill(market: Marketplace, requests_min: int) -> list[str]:
    """Run the drill and return what failed."""
    traders = Traders(market.settings.public_origin)
    async with running(market):
        trading = [asyncio.create_task(traders.trade_until_stopped(number)) for number in range(_TRADERS)]
        await restart_everything(market, traders, requests_min)
        traders.stopping.set()
        await asyncio.gather(*trading)
        statuses = dict(sorted(traders.statuses.items()))
        print(f"{traders.requests} requests, {traders.bought} tickets sold, by status: {statuses}")
        return [*traders.failures, *await market.broken_invariants()]


def main(requests_min: int) -> int:
    with tempfile.TemporaryDirectory(prefix="admitone-rolling-") as folder:
        # PostgreSQL may run as `nobody`, who must be able to enter the folder.
        Path(folder).chmod(0o711)
        with prepared_marketplace(Path(folder) / "data") as market:
            failures = uvloop.run(drill(market, requests_min))
    for each in failures[:20]:
        print("  FAILED", each)
    print(f"{len(failures)} failed" if failures else "0 failed, every invariant holds")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
