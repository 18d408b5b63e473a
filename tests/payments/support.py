"""The payments service over real HTTP, with a sandbox as its provider, and orders to pay."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import uvicorn

from admitone.auth.service import SERVICE as AUTH
from admitone.events import OrderAwaitingPayment, OrderCancelled, OrderCreated, OrderedTicket, PaymentRejected
from admitone.kernel import clock, ids
from admitone.kernel.messaging.event import Event
from admitone.kernel.messaging.handlers import MissingEvents
from admitone.kernel.runner import App
from admitone.kernel.running import RunningService
from admitone.local.nats import Nats
from admitone.local.server import LOOPBACK, free_port
from admitone.payments import store
from admitone.payments.model import Payment
from admitone.payments.service import SERVICE
from tests import inbox
from tests.engines import Databases
from tests.stripe_sandbox.running import (
    API_KEY,
    WEBHOOK_SECRET,
    RunningSandbox,
    running_sandbox,
    served,
)
from tests.support import app_of, eventually, settings_for, signed_in

VISA = "tok_visa"


@dataclass
class World:
    """Payments and its provider, both serving; the tests stand for the other services."""

    app: App
    sandbox: RunningSandbox
    url: str
    bob_id: UUID = field(default_factory=ids.new_id)
    _clients: list[httpx.AsyncClient] = field(default_factory=list)

    @property
    def service(self) -> RunningService:
        return self.app.running["payments"]

    def sign_in(self, name: str, person_id: UUID | None = None) -> httpx.AsyncClient:
        client = signed_in(self.app, name, person_id)
        self._clients.append(client)
        return client

    @property
    def bob(self) -> httpx.AsyncClient:
        """The buyer."""
        return self.sign_in("bob", self.bob_id)

    async def consume(self, *events: Event | bytes) -> list[MissingEvents]:
        """Consume events in one batch; return what must wait for missing events."""
        return await inbox.consume(SERVICE, self.service.database, *events)

    async def order(self, price_cents: int = 1999, seconds: float = 900, **changes: Any) -> OrderCreated:
        """Return an order of bob that may be paid."""
        order = ordered(self.bob_id, price_cents, seconds, **changes)
        await self.consume(order)
        return order

    async def pay(
        self, order: OrderCreated, token: str = VISA, client: httpx.AsyncClient | None = None, key: str = ""
    ) -> httpx.Response:
        headers = {"idempotency-key": key} if key else {}
        body = {"orderId": str(order.id), "token": token}
        return await (client or self.bob).post("/api/payments", json=body, headers=headers)

    async def payments(self, order: OrderCreated) -> list[Payment]:
        return await store.payments_of(self.service.database, [order.id])

    async def payment(self, order: OrderCreated) -> Payment:
        """Return the only payment of an order."""
        [payment] = await self.payments(order)
        return payment

    async def state(self, order: OrderCreated, *wanted: str) -> Payment:
        """Return the latest payment of an order once it is in one of these states and nothing is wanted."""

        async def settled() -> Payment | None:
            payments = await self.payments(order)
            is_there = payments and payments[-1].state in wanted and payments[-1].wanted is None
            return payments[-1] if is_there else None

        found: Payment = await eventually(settled, f"the payment is {' or '.join(wanted)}")
        return found

    async def intents(self, order: OrderCreated | None = None) -> list[Any]:
        """Return the intents at the provider, newest first."""
        found = (await self.sandbox.client.v1.payment_intents.list_async({"limit": 100})).data
        return [each for each in found if order is None or each.to_dict()["metadata"].get("order_id") == str(order.id)]

    async def intent(self, order: OrderCreated) -> Any:
        [intent] = await self.intents(order)
        return intent

    async def published(self, order: OrderCreated | None = None) -> list[str]:
        """Return the types of the events published about an order, oldest first."""
        events: list[Any] = await inbox.published(SERVICE, self.service.database)
        return [type(event).__name__ for event in events if order is None or event.order_id == order.id]

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()


def ordered(buyer: UUID, price_cents: int = 1999, seconds: float = 900, **changes: Any) -> OrderCreated:
    fields: dict[str, Any] = {
        "id": ids.new_id(),
        "version": 0,
        "status": "created",
        "user_id": buyer,
        "expires_at": clock.now() + timedelta(seconds=seconds),
        "ticket": OrderedTicket(id=ids.new_id(), version=0, price_cents=price_cents, currency="usd"),
    }
    return OrderCreated(**{**fields, **changes})


def awaiting(order: OrderCreated, payment_id: UUID) -> OrderAwaitingPayment:
    return OrderAwaitingPayment(
        id=order.id, version=1, user_id=order.user_id, ticket_id=order.ticket.id, payment_id=payment_id
    )


def cancelled(order: OrderCreated, version: int = 1, reason: Any = "cancelled_by_buyer") -> OrderCancelled:
    return OrderCancelled(id=order.id, version=version, user_id=order.user_id, ticket_id=order.ticket.id, reason=reason)


def rejected(order: OrderCreated, payment_id: UUID) -> PaymentRejected:
    return PaymentRejected(order_id=order.id, payment_id=payment_id)


@asynccontextmanager
async def running_world(
    databases: Databases,
    start_nats: Callable[..., Nats],
    *,
    webhooks: bool = True,
    sandbox_port: int | None = None,
    **settings: Any,
) -> AsyncIterator[World]:
    """Run payments and auth on a real port and a sandbox on another; without `webhooks` the provider sends none."""
    async with AsyncExitStack() as stack:
        port = free_port()
        url = f"http://{LOOPBACK}:{port}"
        sandbox = await stack.enter_async_context(
            running_sandbox(
                webhook_url=f"{url}/api/payments/webhook" if webhooks else "",
                port=sandbox_port,
                retry_delays_seconds=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
            )
        )
        chosen = {
            "stripe_url": sandbox.url,
            "stripe_secret_key": API_KEY,
            "stripe_webhook_secret": WEBHOOK_SECRET,
            "port": port,
            "database_connections": 10,  # as in production: dozens of requests are sent at once
            **settings,
        }
        app = await stack.enter_async_context(
            app_of((AUTH, SERVICE), await settings_for(databases, start_nats, AUTH, SERVICE, **chosen))
        )
        config = uvicorn.Config(
            app, host=LOOPBACK, port=port, lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
        await stack.enter_async_context(served(lambda: uvicorn.Server(config)))
        world = World(app, sandbox, url)
        try:
            yield world
        finally:
            await world.close()
