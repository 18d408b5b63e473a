"""A whole marketplace for one test: every service in this process, real PostgreSQL, NATS and payments around it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from admitone.invariants import Sources, check
from admitone.kernel.messaging import bus as buses
from admitone.kernel.runner import App
from admitone.kernel.service import Service
from admitone.local.nats import Nats
from admitone.local.server import free_port
from admitone.registry import named
from tests import engines
from tests.stripe_sandbox.running import API_KEY, WEBHOOK_SECRET, RunningSandbox, running_sandbox, served
from tests.support import StartNats, app_of, bus_user, eventually, settings_for, signed_in

Json = dict[str, Any]

TRADE = ("auth", "tickets", "orders", "expiration")
WITH_MONEY = (*TRADE, "payments")


@dataclass
class Market:
    """What a test does in a marketplace, in the words of the trade."""

    app: App
    nats: Nats
    services: Sequence[Service]
    sandbox: RunningSandbox | None = None

    def person(self, name: str) -> httpx.AsyncClient:
        return signed_in(self.app, name)

    def database(self, service: str) -> Any:
        return self.app.running[service].database

    async def lists(
        self, seller: httpx.AsyncClient, *, title: str = "Fado night", price: float = 19.99, **fields: object
    ) -> Json:
        """List a ticket and wait until it can be reserved."""
        answer = await seller.post("/api/tickets", json={"title": title, "price": price, **fields})
        assert answer.status_code == 201, answer.text
        ticket: Json = answer.json()

        async def known() -> object:
            return await self.database("orders").fetchval("SELECT true FROM ticket WHERE id = $1", ticket["id"])

        await eventually(known, "orders knows the ticket")
        return ticket

    async def reserves(self, buyer: httpx.AsyncClient, ticket: Json) -> Json:
        answer = await buyer.post("/api/orders", json={"ticketId": ticket["id"]})
        assert answer.status_code == 201, answer.text
        order: Json = answer.json()
        return order

    async def ticket(self, ticket: Json) -> Json:
        async with self.app.client() as anyone:
            shown: Json = (await anyone.get(f"/api/tickets/{ticket['id']}")).json()
            return shown

    async def ticket_becomes(self, ticket: Json, status: str, seconds: float = 30.0) -> Json:
        async def as_wanted() -> Json | None:
            shown = await self.ticket(ticket)
            return shown if shown["status"] == status else None

        found: Json = await eventually(as_wanted, f"the ticket is {status}", seconds)
        return found

    async def order_becomes(self, buyer: httpx.AsyncClient, order: Json, status: str, seconds: float = 30.0) -> Json:
        async def as_wanted() -> Json | None:
            shown: Json = (await buyer.get(f"/api/orders/{order['id']}")).json()
            return shown if shown["status"] == status else None

        found: Json = await eventually(as_wanted, f"the order is {status}", seconds)
        return found

    async def locked(self, buyer: httpx.AsyncClient, ticket: Json) -> Json:
        """Reserve a ticket and wait until the lock is everywhere; return the order."""
        order = await self.reserves(buyer, ticket)

        async def confirmed() -> object:
            return await self.database("orders").fetchval(
                "SELECT true FROM ticket WHERE id = $1 AND order_id = $2", ticket["id"], order["id"]
            )

        await eventually(confirmed, "the lock is confirmed")
        return order

    async def settled(self) -> None:
        """Wait until every event is published and every consumer has handled and acknowledged what it receives."""
        await eventually(self._is_settled, "every event is consumed", 30)

    async def _is_settled(self) -> bool:
        for service in self.services:
            if service.has_database and await self.database(service.name).fetchval(
                "SELECT count(*) FROM outbox WHERE stream_sequence IS NULL"
            ):
                return False
        names = {each.name for each in self.services}
        for service in self.services:
            for producer in names & {event.producer for event in service.subscriptions}:
                bus = self.app.running[service.name].bus
                try:
                    consumer = await bus.jetstream.consumer_info(producer, service.name)
                except buses.UNREACHABLE:
                    return False
                if consumer.num_pending or consumer.num_ack_pending:
                    return False
        return True

    async def is_sound(self) -> None:
        """Assert every invariant of the design over this marketplace."""
        findings = await check(Sources.of(self.app.running["orders"].settings, self.services))
        assert [f"{each.id} {each.samples()}" for each in findings if not each.holds] == []


@asynccontextmanager
async def marketplace(
    databases: engines.Databases,
    start_nats: StartNats,
    *names: str,
    **chosen: Any,
) -> AsyncIterator[Market]:
    """Run these services (the trade without money when none is named), with the sandbox when payments is one."""
    services = named(names or TRADE)
    nats = start_nats(*(bus_user(each) for each in services))
    if "payments" not in names:
        settings = await settings_for(databases, start_nats, *services, nats=nats, **chosen)
        async with app_of(services, settings) as app:
            yield Market(app, nats, services)
        return
    port = free_port()
    webhooks = f"http://127.0.0.1:{port}/api/payments/webhook"
    async with running_sandbox(webhook_url=webhooks) as sandbox:
        settings = await settings_for(
            databases, start_nats, *services, nats=nats, port=port, stripe_url=sandbox.url,
            stripe_secret_key=API_KEY, stripe_webhook_secret=WEBHOOK_SECRET, **chosen,
        )  # fmt: skip
        async with app_of(services, settings) as app:
            config = uvicorn.Config(app, port=port, lifespan="off", log_config=None)
            async with served(lambda: uvicorn.Server(config)):
                yield Market(app, nats, services, sandbox)
