"""A sandbox on real HTTP for tests, and Stripe's own SDK pointed at it."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import stripe
import uvicorn

from admitone.local.server import free_port
from stripe_sandbox.app import LOOPBACK, create_app, create_server

# Or the SDK leaves an id of its own in the home folder.
stripe.enable_telemetry = False

API_KEY = "sk_test_of_the_sandbox"
WEBHOOK_SECRET = "whsec_of_the_sandbox"


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
    database: Path | None = None, *, port: int | None = None, **options: Any
) -> AsyncIterator[RunningSandbox]:
    """A sandbox that serves until the block ends; without a database file, on one that ends with it."""
    port = port or free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = database or Path(folder, "sandbox.sqlite3")
        app = create_app(file, secret_key=API_KEY, webhook_secret=WEBHOOK_SECRET, **options)
        async with served(lambda: create_server(app, port)):
            url = f"http://{LOOPBACK}:{port}"
            transport = stripe.HTTPXClient(timeout=10)
            client = stripe.StripeClient(
                API_KEY, base_addresses={"api": url}, http_client=transport, max_network_retries=0
            )
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
