"""A sandbox on real HTTP for tests, and Stripe's own SDK pointed at it."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
import stripe
import uvicorn

from admitone.local.postgres import Postgres
from admitone.local.server import free_port
from admitone.sandbox.app import LOOPBACK, create_app, server

# Or the SDK leaves an id of its own in the home folder.
stripe.enable_telemetry = False

API_KEY = "sk_test_of_the_sandbox"
WEBHOOK_SECRET = "whsec_of_the_sandbox"

_numbers = itertools.count(1)


@asynccontextmanager
async def served(make_server: Callable[[], uvicorn.Server]) -> AsyncIterator[uvicorn.Server]:
    """Run a server in this loop for as long as the block lasts."""
    running = make_server()
    serving = asyncio.create_task(running.serve())
    try:
        while not running.started:
            assert not serving.done(), "the server ended at once"
            await asyncio.sleep(0.005)
        yield running
    finally:
        running.should_exit = True
        await serving


@asynccontextmanager
async def fresh_database(postgres: Postgres) -> AsyncIterator[str]:
    """An empty database, owned by whoever connects with the yielded URL."""
    name = f"sandbox_{next(_numbers)}"
    connection = await asyncpg.connect(postgres.url())
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        yield f"{postgres.url().rpartition('/')[0]}/{name}"
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@dataclass
class RunningSandbox:
    """A sandbox that serves, and ways to talk to it."""

    url: str
    http: httpx.AsyncClient
    client: stripe.StripeClient

    async def wants(self, **faults: list[dict[str, Any]]) -> None:
        """Let faults happen from now on: `requests=[…]`, `webhooks=[…]`."""
        (await self.http.post("/sandbox/faults", json=faults)).raise_for_status()

    async def forgives(self) -> None:
        (await self.http.delete("/sandbox/faults")).raise_for_status()

    async def expires(self, intent_id: str) -> None:
        """Let an authorisation lapse."""
        (await self.http.post(f"/sandbox/expire/{intent_id}")).raise_for_status()

    async def authenticates(self, intent: Any, outcome: str = "approve") -> httpx.Response:
        """Do what the buyer does on the bank's page."""
        form = {"client_secret": intent.client_secret, "outcome": outcome}
        return await self.http.post(f"/sandbox/authenticate/{intent.id}", data=form)


@asynccontextmanager
async def running_sandbox(
    database_url: str, *, webhook_url: str = "", port: int | None = None, **options: Any
) -> AsyncIterator[RunningSandbox]:
    port = port or free_port()
    app = create_app(database_url, api_key=API_KEY, webhook_url=webhook_url, webhook_secret=WEBHOOK_SECRET, **options)
    async with served(lambda: server(app, port)):
        url = f"http://{LOOPBACK}:{port}"
        transport = stripe.HTTPXClient(timeout=10)
        client = stripe.StripeClient(API_KEY, base_addresses={"api": url}, http_client=transport, max_network_retries=0)
        async with httpx.AsyncClient(base_url=url) as plain:
            yield RunningSandbox(url, plain, client)
        await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK says nothing about it


@dataclass
class Mailbox:
    """A webhook endpoint that keeps what it takes; while `refuses` is positive it answers 500 instead."""

    url: str = ""
    received: list[stripe.Event] = field(default_factory=list)
    tried: int = 0
    refuses: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        event = stripe.Webhook.construct_event(body, headers["stripe-signature"], WEBHOOK_SECRET)
        self.tried += 1
        status = 500 if self.refuses > 0 else 200
        if status == 200:
            self.received.append(event)
        else:
            self.refuses -= 1
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.received]


@asynccontextmanager
async def running_mailbox() -> AsyncIterator[Mailbox]:
    mailbox = Mailbox()
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
    config = uvicorn.Config(
        mailbox, host=LOOPBACK, port=port, lifespan="off", log_level="warning", timeout_graceful_shutdown=1
    )
    mailbox.url = f"http://{LOOPBACK}:{port}/webhook"
    async with served(lambda: uvicorn.Server(config)):
        yield mailbox
