"""Restarts every replica of every service under load, with a new signing key, and counts what people notice: nothing.

    python -m deploy.rolling [REQUESTS]

Two processes of every service stand behind one address. Each is replaced as a cluster does it, auth three times, while
people list, buy, pay and sign in. It fails when one request fails, when somebody is signed out, or when an invariant is
broken at the end.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvloop

from admitone.auth.tokens import new_signing_key
from admitone.kernel.ids import new_id
from admitone.registry import SERVICES
from deploy.marketplace import Marketplace, prepared, running

PEOPLE = 6
PASSWORD = "eleven-brass-owls"  # noqa: S105 – of people who live for a minute


@dataclass
class Load:
    """People who trade until they are told to stop, and what they were answered."""

    origin: str
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    bought: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())

    async def ask(self, person: httpx.AsyncClient, method: str, path: str, **rest: Any) -> httpx.Response | None:
        """Send one request once: a retry would hide what this looks for."""
        try:
            answer = await person.request(method, path, **rest)
        except httpx.HTTPError as error:
            self.statuses[0] += 1
            self.failures.append(f"{method} {path}: {error!r}")
            return None
        self.statuses[answer.status_code] += 1
        if answer.status_code >= 500 or answer.status_code == 401:
            self.failures.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer

    async def trade(self, number: int) -> None:
        """Sell and buy, one ticket after the other."""
        seller_name, buyer_name = f"alice{number}@example.com", f"bob{number}@example.com"
        async with (
            httpx.AsyncClient(base_url=self.origin, timeout=20) as seller,
            httpx.AsyncClient(base_url=self.origin, timeout=20) as buyer,
        ):
            for person, name in ((seller, seller_name), (buyer, buyer_name)):
                await self.ask(person, "POST", "/api/users/signup", json={"email": name, "password": PASSWORD})
            rounds = 0
            while not self.stopping.is_set():
                rounds += 1
                await self.one_sale(seller, buyer, pays=rounds % 3 == 0)
                if rounds % 10 == 0:
                    body = {"email": buyer_name, "password": PASSWORD}
                    await self.ask(buyer, "POST", "/api/users/signin", json=body)

    async def one_sale(self, seller: httpx.AsyncClient, buyer: httpx.AsyncClient, *, pays: bool) -> None:
        """Have one ticket listed and looked at, held, and perhaps paid for."""
        listed = await self.ask(seller, "POST", "/api/tickets", json={"title": "Fado night", "price": 19.99})
        for _ in range(4):
            await self.ask(buyer, "GET", "/api/tickets")
            await self.ask(buyer, "GET", "/api/users/currentuser")
            await self.ask(seller, "GET", "/")
        if listed is None or not listed.is_success:
            return
        ticket = listed.json()["id"]
        order = await self._until(buyer, "/api/orders", {"ticketId": ticket})
        if order is None:
            return
        await self.ask(buyer, "GET", f"/api/orders/{order['id']}")
        if pays and await self._until(buyer, "/api/payments", {"orderId": order["id"], "token": "tok_visa"}):
            self.bought += 1

    async def _until(self, person: httpx.AsyncClient, path: str, body: dict[str, str]) -> dict[str, Any] | None:
        """Post until the service has heard of what this is about, which takes as long as an event does."""
        key = {"idempotency-key": str(new_id())}
        for _ in range(200):
            answer = await self.ask(person, "POST", path, json=body, headers=key)
            if answer is not None and answer.status_code == 201:
                found: dict[str, Any] = answer.json()
                return found
            if answer is not None and answer.status_code != 404:
                return None
            await asyncio.sleep(0.05)
        self.failures.append(f"{path}: {body} was never known")
        return None


async def drill(market: Marketplace, requests_min: int) -> Load:
    load = Load(market.settings.public_origin)
    trading = [asyncio.create_task(load.trade(number)) for number in range(PEOPLE)]
    old, new = market.settings.signing_key, new_signing_key()
    rolls = 0

    async def roll(service: str, **changed: str) -> None:
        nonlocal rolls
        market.settings = msgspec.structs.replace(market.settings, **changed)
        before, began = load.requests, time.monotonic()
        await market.roll(service)
        rolls += 1
        seconds = time.monotonic() - began
        print(f"  {service:<12} {seconds:5.1f} s  {load.requests - before:5} requests  {len(load.failures)} failed")

    await roll("auth", signing_key=old + new)  # the new key is published, the old one still signs
    others = [each.name for each in SERVICES if each.name != "auth"]
    for service in others:
        await roll(service)
    await roll("auth", signing_key=new + old)  # the new key signs, tokens of the old one are still good
    while load.requests < requests_min:
        for service in others:
            await roll(service)
    load.stopping.set()
    await asyncio.gather(*trading)
    return load


async def main(market_of: Any, requests_min: int) -> int:
    async with running(*market_of) as market:
        load = await drill(market, requests_min)
        print(f"{load.requests} requests, {load.bought} tickets sold, answers: {dict(sorted(load.statuses.items()))}")
        broken = await market.broken_invariants()
    for each in (*load.failures[:20], *broken):
        print("  FAILED", each)
    print("0 failed, every invariant holds" if not load.failures and not broken else f"{len(load.failures)} failed")
    return 1 if load.failures or broken else 0


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory(prefix="admitone-rolling-") as folder:
        Path(folder).chmod(0o711)
        with prepared(Path(folder) / "data") as found:
            sys.exit(uvloop.run(main(found, wanted)))
