"""What mutated requests are about: people, tickets and orders in an application that runs in this process."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from admitone.auth.resources import AuthSettings
from admitone.auth.tokens import SigningKeys
from admitone.kernel import ids
from admitone.kernel.runner import App
from admitone.payments.resources import PaymentSettings
from admitone.web.assets import FINGERPRINT
from admitone.web.service import SERVICE as WEB
from proof.clients import HttpClient, session_of
from proof.endings import reserved
from proof.fuzz.inputs import SOME_ID
from proof.fuzz.mutator import Known, Mutator, field_names, routes
from proof.history import ClientHistory
from proof.people import CONFIRMED_CARD, PASSWORD, Person

STAYING: Final = ("alice", "bob", "carol")
LEAVING: Final = ("dave", "erin")
CONNECTIONS: Final = 16
_SESSIONS_EACH: Final = 10
_TICKETS_AT_ONCE: Final = 4
_NEW_ID_EVERY: Final = 10 * _TICKETS_AT_ONCE
_PAYMENTS: Final = """
SELECT id, stripe_id, order_id FROM payment WHERE stripe_id IS NOT NULL ORDER BY created_at DESC LIMIT 4
"""


class Stock:
    """Keeps a marketplace worth attacking: fresh sessions, a few tickets on sale, some held, one paid for."""

    def __init__(self, app: App, users: dict[str, UUID]) -> None:
        self._app = app
        self._users = users
        self._numbers = itertools.count()
        self._keys = SigningKeys.from_pem(app.running["auth"].settings.read(AuthSettings).signing_key)
        self._webhook_secret = app.running["payments"].settings.read(PaymentSettings).stripe_webhook_secret
        self._client = HttpClient(app.client())
        self._history = ClientHistory()

    async def renew(self) -> Known:
        """List more tickets, reserve and pay for some; return what exists now."""
        alice, bob = (
            Person(self._users[name], self._session(name), self._client, self._history) for name in ("alice", "bob")
        )
        tickets, orders = [], []
        # Taken before anything is awaited: two of these may run at once.
        numbers = [next(self._numbers) for _ in range(_TICKETS_AT_ONCE)]
        for number in numbers:
            ticket = await alice.list_ticket(f"Fado night {number}")
            assert ticket is not None
            tickets.append(str(ticket.id))
            if number % 2:
                orders.append(await reserved(bob, ticket))
        await bob.pay(orders[0], CONFIRMED_CARD)
        payments = await self._app.running["payments"].database.fetch(_PAYMENTS)
        # A request about a new id waits for its replica: worth trying, and not worth most of a run's time.
        unknown = str(ids.new_id()) if numbers[0] % _NEW_ID_EVERY == 0 else SOME_ID
        return Known(
            sessions=[self._session(name) for name in STAYING for _ in range(_SESSIONS_EACH)],
            leaving=[self._session(name) for name in LEAVING for _ in range(_SESSIONS_EACH)],
            tickets=[*tickets, unknown],
            orders=[*map(str, orders), unknown],
            payments=[(str(row["id"]), row["stripe_id"], str(row["order_id"])) for row in payments],
            fingerprint=FINGERPRINT,
            webhook_secret=self._webhook_secret,
        )

    def _session(self, name: str) -> str:
        return session_of(self._keys, self._users[name])


@dataclass
class Target:
    """What it takes to send mutated requests to an application."""

    mutator: Mutator
    fields: frozenset[str]
    stock: Stock


@asynccontextmanager
async def prepared(app: App, seed: int) -> AsyncIterator[Target]:
    """Sign people up in a running application with all services, and fill the stock."""
    for service in app.running.values():
        if service.maybe_database is not None:
            # Open every connection first: a busy machine is not a fault.
            sleeps = [service.database.execute("SELECT pg_sleep(0.5)") for _ in range(CONNECTIONS)]
            await asyncio.gather(*sleeps)
    async with app.client() as client:
        users = {}
        for name in (*STAYING, *LEAVING):
            body = {"email": f"{name}@example.com", "password": PASSWORD}
            users[name] = UUID((await client.post("/api/users/signup", json=body)).json()["id"])
        document: dict[str, Any] = (await client.get("/api/openapi.json")).json()
    stock = Stock(app, users)
    known = await stock.renew()
    assert WEB.pages is not None
    page_routes: list[Any] = list(WEB.pages(app.running["web"]))
    pages = [(method, route.path) for route in page_routes for method in sorted(route.methods or ["GET"])]
    yield Target(Mutator(seed, routes(document, pages), known), field_names(document), stock)
