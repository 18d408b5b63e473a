"""A marketplace with people, tickets and orders in it, for mutated requests to go astray in."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import httpx

from admitone.kernel import clock, ids
from admitone.kernel.http.sessions import SignedInUser
from admitone.kernel.runner import App
from admitone.web.assets import FINGERPRINT
from admitone.web.service import SERVICE as WEB
from proof.fuzz.requests import SOME_ID, Known, Mutator, Report, field_names, ways
from tests import engines
from tests.stripe_sandbox.running import WEBHOOK_SECRET
from tests.support import StartNats, set_token, sign_up, token_of
from tests.system.support import WITH_MONEY, Market, marketplace

STAYING: Final = ("alice", "bob", "carol")
LEAVING: Final = ("dave", "erin")
CONNECTIONS: Final = 16
_SESSIONS_EACH: Final = 10
_TICKETS_AT_ONCE: Final = 4
_YOUNG_EVERY: Final = 10 * _TICKETS_AT_ONCE


@dataclass
class Stock:
    """Keeps a marketplace worth going astray in: fresh sessions, a few tickets on sale, some held, one paid for."""

    market: Market
    people: dict[str, UUID]
    clients: dict[str, httpx.AsyncClient]
    numbers: "itertools.count[int]"

    async def renew(self) -> Known:
        """Put more on sale, reserve and pay some of it; return what there is now."""
        for name, client in self.clients.items():
            set_token(client, self._session(name))
        alice, bob = self.clients["alice"], self.clients["bob"]
        tickets, orders = [], []
        # Taken before anything is awaited: two of these may run at once.
        numbers = [next(self.numbers) for _ in range(_TICKETS_AT_ONCE)]
        for number in numbers:
            ticket = await self.market.lists(alice, title=f"Fado night {number}")
            tickets.append(ticket["id"])
            if number % 2:
                orders.append((await self.market.locked(bob, ticket))["id"])
        await bob.post("/api/payments", json={"orderId": orders[0], "token": "pm_card_authenticationRequired"})
        payments = await self.market.database("payments").fetch(
            "SELECT id, stripe_id, order_id FROM payment WHERE stripe_id IS NOT NULL ORDER BY created_at DESC LIMIT 4"
        )
        # What was made a moment ago is waited for: worth trying, and not worth most of a run's time.
        nothing = str(ids.new_id()) if numbers[0] % _YOUNG_EVERY == 0 else SOME_ID
        return Known(
            sessions=[self._session(name) for name in STAYING for _ in range(_SESSIONS_EACH)],
            leaving=[self._session(name) for name in LEAVING for _ in range(_SESSIONS_EACH)],
            tickets=[*tickets, nothing],
            orders=[*orders, nothing],
            payments=[(str(row["id"]), row["stripe_id"], str(row["order_id"])) for row in payments],
            fingerprint=FINGERPRINT,
            webhook_secret=WEBHOOK_SECRET,
        )

    async def is_sound(self, report: Report) -> None:
        """Add the invariants that do not hold to the report, once everything is told."""
        await self.market.settled()
        try:
            await self.market.is_sound()
        except AssertionError as broken:
            report.found(f"not sound: {broken}", None)

    def _session(self, name: str) -> str:
        expires_at = clock.now().timestamp() + 12 * 3600
        person = SignedInUser(self.people[name], f"{name}@example.com", ids.new_id(), expires_at)
        return token_of(self.market.app, person)


@dataclass
class Fuzzed:
    """What it takes to send mutated requests."""

    market: Market
    mutator: Mutator
    fields: frozenset[str]
    """What errors may name."""
    stock: Stock

    @property
    def app(self) -> App:
        return self.market.app


@asynccontextmanager
async def fuzzed_market(databases: engines.Databases, start_nats: StartNats, seed: int) -> AsyncIterator[Fuzzed]:
    """Run every service, with people and a stock; yield it with what makes requests for it."""
    # More connections than requests at once, all open before the first: a busy machine is no finding.
    async with marketplace(databases, start_nats, *WITH_MONEY, "web", database_connections=CONNECTIONS) as market:
        for service in market.services:
            if service.has_database:
                database = market.database(service.name)
                await asyncio.gather(*(database.execute("SELECT pg_sleep(0.5)") for _ in range(CONNECTIONS)))
        people = {}
        for name in (*STAYING, *LEAVING):
            async with market.app.client() as client:
                people[name] = await sign_up(client, f"{name}@example.com")
        async with market.app.client() as alice, market.app.client() as bob:
            stock = Stock(market, people, {"alice": alice, "bob": bob}, itertools.count())
            known = await stock.renew()
            document: dict[str, Any] = (await alice.get("/api/openapi.json")).json()
            assert WEB.pages is not None
            routes: list[Any] = list(WEB.pages(market.app.running["web"]))
            pages = [(method, route.path) for route in routes for method in sorted(route.methods or ["GET"])]
            yield Fuzzed(market, Mutator(seed, ways(document, pages), known), field_names(document), stock)
