"""A sandbox on real HTTP for tests, with Stripe's own SDK as its client, and a webhook endpoint."""

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import httpx
import stripe
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from stripe.params import PaymentIntentCreateParams

from admitone.local.server import free_port
from stripe_sandbox.app import LOOPBACK, create_app, create_server
from tests.stripe_sandbox.schema import violations

# Otherwise the SDK writes an id into the home folder.
stripe.enable_telemetry = False

API_KEY = "sk_test_of_the_sandbox"
WEBHOOK_SECRET = "whsec_of_the_sandbox"


@asynccontextmanager
async def served(make_server: Callable[[], uvicorn.Server]) -> AsyncIterator[uvicorn.Server]:
    """Run a server in this event loop until the block ends."""
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


RETURN_URL = "https://tickets.example/orders/1"


def order(**changes: Any) -> PaymentIntentCreateParams:
    """Parameters of an intent as the marketplace creates it; changes may be invalid on purpose."""
    params: Any = {
        "amount": 1999,
        "currency": "usd",
        "capture_method": "manual",
        "confirm": True,
        "payment_method": "pm_card_visa",
        "automatic_payment_methods": {"enabled": True},
        "return_url": RETURN_URL,
        "metadata": {"order_id": str(uuid4())},
        **changes,
    }
    return cast("PaymentIntentCreateParams", params)


def key() -> stripe.RequestOptions:
    return {"idempotency_key": str(uuid4())}


async def authorized(provider: stripe.StripeClient, **changes: Any) -> stripe.PaymentIntent:
    intent = await provider.v1.payment_intents.create_async(order(**changes))
    assert intent.status == "requires_capture"
    return intent


@dataclass
class RunningSandbox:
    """A sandbox that serves, and clients of it."""

    url: str
    http: httpx.AsyncClient
    client: stripe.StripeClient

    async def inject(self, **faults: list[dict[str, Any]]) -> None:
        """Plan faults: `requests=[…]`, `webhooks=[…]`."""
        (await self.http.post("/sandbox/faults", json=faults)).raise_for_status()

    async def clear_faults(self) -> None:
        (await self.http.delete("/sandbox/faults")).raise_for_status()

    async def expire_authorization(self, intent_id: str) -> None:
        (await self.http.post(f"/sandbox/expire/{intent_id}")).raise_for_status()

    async def authenticate(self, intent: Any, outcome: str = "approve") -> httpx.Response:
        """Do what the buyer does on the bank's page."""
        form = {"client_secret": intent.client_secret, "outcome": outcome}
        return await self.http.post(f"/sandbox/authenticate/{intent.id}", data=form)


class CheckedResponses:
    """ASGI middleware that notes in what responses of the API differ from Stripe's."""

    def __init__(self, app: ASGIApp, differences: set[str]) -> None:
        self._app = app
        self._differences = differences

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_check(message: Message) -> None:
            if scope["type"] == "http" and scope["path"].startswith("/v1/") and message.get("body"):
                self._differences.update(violations(json.loads(message["body"])))
            await send(message)

        await self._app(scope, receive, send_and_check)


async def _list_all_events(client: httpx.AsyncClient) -> None:
    """Read every event, so that its form is checked: that of a webhook is the same."""
    await client.delete("/sandbox/faults")
    query = {"limit": "100"}
    while True:
        response = await client.get("/v1/events", params=query, headers={"authorization": f"Bearer {API_KEY}"})
        page = response.raise_for_status().json()
        if not page["has_more"]:
            return
        query["starting_after"] = page["data"][-1]["id"]


@asynccontextmanager
async def running_sandbox(
    database: Path | None = None, *, port: int | None = None, **options: Any
) -> AsyncIterator[RunningSandbox]:
    """Serve a sandbox inside the block, on a temporary database file unless one is given.

    At the end, every response and every event must have had the form of Stripe's.
    """
    port = port or free_port()
    differences: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        file = database or Path(folder, "sandbox.sqlite3")
        app = create_app(file, secret_key=API_KEY, webhook_secret=WEBHOOK_SECRET, **options)
        app.add_middleware(CheckedResponses, differences)
        async with served(lambda: create_server(app, port)):
            url = f"http://{LOOPBACK}:{port}"
            transport = stripe.HTTPXClient(timeout=10)
            client = stripe.StripeClient(
                API_KEY, base_addresses={"api": url}, http_client=transport, max_network_retries=0
            )
            async with httpx.AsyncClient(base_url=url) as plain:
                yield RunningSandbox(url, plain, client)
                await _list_all_events(plain)
            await transport.close_async()  # type: ignore[no-untyped-call]  # not annotated in the SDK
    assert not differences, "\n".join(sorted(differences))


@dataclass
class WebhookEndpoint:
    """A webhook endpoint that keeps the events it receives; it fails as often as `failures_left` says."""

    url: str = ""
    received: list[stripe.Event] = field(default_factory=list)
    attempts: int = 0
    failures_left: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        event = stripe.Webhook.construct_event(body, headers["stripe-signature"], WEBHOOK_SECRET)
        self.attempts += 1
        status = 500 if self.failures_left > 0 else 200
        if status == 200:
            self.received.append(event)
        else:
            self.failures_left -= 1
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.received]


@asynccontextmanager
async def running_endpoint() -> AsyncIterator[WebhookEndpoint]:
    endpoint = WebhookEndpoint()
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
    config = uvicorn.Config(
        endpoint, host=LOOPBACK, port=port, lifespan="off", log_level="warning", timeout_graceful_shutdown=1
    )
    endpoint.url = f"http://{LOOPBACK}:{port}/webhook"
    async with served(lambda: uvicorn.Server(config)):
        yield endpoint
