"""A marketplace with people, tickets and orders in it, for mutated requests to go astray in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from admitone.kernel import clock, ids
from admitone.kernel.identity import Person
from admitone.kernel.runner import App
from admitone.local.postgres import Postgres
from admitone.web.service import SERVICE as WEB
from fuzz.requests import Mutator, field_names, ways
from tests import engines
from tests.support import StartNats, sign_up, token_of
from tests.system.support import WITH_MONEY, marketplace

PEOPLE = ("alice", "bob", "carol")


@asynccontextmanager
async def fuzzed_market(
    postgres: Postgres, databases: engines.Databases, start_nats: StartNats, seed: int
) -> AsyncIterator[tuple[App, Mutator, frozenset[str]]]:
    """Run every service; yield the application, what makes requests for it, and the fields its errors may name."""
    async with marketplace(postgres, databases, start_nats, *WITH_MONEY, "web") as market:
        app = market.app
        tokens, tickets, orders = [], [], []
        for name in PEOPLE:
            async with app.client() as client:
                person_id = await sign_up(client, f"{name}@example.com")
            # Signing out ends a session for good, so there are some to be lost.
            expires_at = clock.now().timestamp() + 12 * 3600
            tokens += [
                token_of(app, Person(person_id, f"{name}@example.com", ids.new_id(), expires_at)) for _ in range(100)
            ]
        async with app.client() as alice, app.client() as bob:
            alice.headers["cookie"], bob.headers["cookie"] = f"session={tokens[0]}", f"session={tokens[100]}"
            for number in range(6):
                ticket = await market.lists(alice, title=f"Fado night {number}")
                tickets.append(ticket["id"])
                if number % 2:
                    orders.append((await market.locked(bob, ticket))["id"])
            document: dict[str, Any] = (await alice.get("/api/openapi.json")).json()
        assert WEB.pages is not None
        routes: list[Any] = list(WEB.pages(app.running["web"]))
        pages = [(method, route.path) for route in routes for method in sorted(route.methods or ["GET"])]
        nothing = str(ids.new_id())
        mutator = Mutator(seed, ways(document, pages), tokens, [*tickets, nothing], [*orders, nothing])
        yield app, mutator, field_names(document)
