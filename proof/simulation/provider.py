"""The payment provider: the real sandbox in this process, reached by Stripe's SDK over a network that fails."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextvars import Context
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import httpx
import msgspec
import stripe

from admitone.invariants import ProviderIntent, intents_of
from proof.clients import HttpClient, Json
from stripe_sandbox.app import create_app

if TYPE_CHECKING:
    from proof.simulation.processes import Process
    from proof.simulation.world import World

SECRET_KEY: Final = "sk_test_simulation"
INSTALLATION: Final = UUID("00000000-0000-7000-8000-000000000001")
_INTENTS: Final = "/v1/payment_intents"
_HELD: Final = "payment_intent.amount_capturable_updated"
_TIMEOUT_SECONDS: Final = 6.0
_WEBHOOK_ATTEMPTS: Final = 5
_FAILS_AFTER: Final = {"requests": [{"when": "after", "answer": "internal_error"}]}


class SimulatedProvider:
    """What the provider knows, and what goes wrong on the way to it and back."""

    def __init__(self, world: "World", random: Random) -> None:
        self._world = world
        self._random = random
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(Path(":memory:"), secret_key=SECRET_KEY)),
            base_url="http://stripe.example",
            headers={"authorization": f"Bearer {SECRET_KEY}"},
            trust_env=False,
        )
        self._found_from: dict[str, float] = {}
        self._in_progress: set[str] = set()
        self._known_events: set[str] = set()
        self._not_capturable: set[str] = set()
        # Until when requests for an intent by its id, and for the list or a search, are in vain.
        self.finds_nothing_until = 0.0
        self.lists_nothing_until = 0.0

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: str) -> httpx.Response:
        """Send one request over the network. Raises stripe.APIConnectionError."""
        faults, loop, key = self._world.faults, self._world.loop, headers.get("Idempotency-Key", "")
        await asyncio.sleep(self._random.uniform(0.05, 0.4))
        if faults.strikes("provider unreachable"):
            raise _connection_error("unreachable")
        if path.startswith(_INTENTS) and (failure := self._outage(method, path)) is not None:
            return failure
        if faults.strikes("provider says too many"):
            return _failure(429, "rate_limit")
        if faults.strikes("provider finds nothing"):
            return _not_found()
        if faults.strikes("provider is slow"):
            await asyncio.sleep(self._random.uniform(1.0, 8.0))
        if faults.strikes("provider times out before"):
            # It takes effect long after the caller has given up, even if the caller is dead by then.
            self._in_progress.add(key)
            effect = lambda: loop.create_task(self._execute_late(method, path, headers, body, key))  # noqa: E731
            loop.call_later(self._random.uniform(5.0, 100.0), effect, context=Context())
            await asyncio.sleep(_TIMEOUT_SECONDS)
            raise _connection_error("timeout")
        if key and key in self._in_progress:
            return _failure(409, "idempotency_key_in_use")
        if faults.strikes("provider fails before"):
            return _failure(500, "api_error")
        response = await self._execute(method, path, headers, body)
        if faults.strikes("provider times out after"):
            await asyncio.sleep(_TIMEOUT_SECONDS)
            raise _connection_error("timeout")
        await asyncio.sleep(self._random.uniform(0.05, 0.4))
        return response

    def _outage(self, method: str, path: str) -> httpx.Response | None:
        """Return the failure of a request about intents, while such requests fail again and again."""
        now, page = self._world.loop.time(), path.partition("?")[0].removeprefix(_INTENTS)
        if page in {"", "/search"}:
            return _failure(503, "api_error") if method == "GET" and now < self.lists_nothing_until else None
        return _not_found() if now < self.finds_nothing_until else None

    async def _execute_late(self, method: str, path: str, headers: Mapping[str, str], body: str, key: str) -> None:
        self._in_progress.discard(key)
        await self._execute(method, path, headers, body)

    async def _execute(self, method: str, path: str, headers: Mapping[str, str], body: str) -> httpx.Response:
        if path.endswith("/capture") and self._refuses_capture(path):
            return _failure(400, "status_transition_invalid", "invalid_request_error")
        if method == "POST" and self._world.faults.strikes("provider fails after"):
            await self._http.post("/sandbox/faults", json=_FAILS_AFTER)
        response = await self._http.request(method, path, headers=dict(headers), content=body)
        self._world.trace("provider", method, response.status_code)
        if path.endswith("/capture") and response.is_success and "idempotent-replayed" not in response.headers:
            self._world.check_capture(response.json())
        if method == "POST" and path == _INTENTS:
            self._note_created(response.json())
        if method == "GET" and path.startswith(f"{_INTENTS}/search"):
            now, found = self._world.loop.time(), response.json()
            data = [each for each in found["data"] if self._found_from.get(each["id"], 0.0) <= now]
            response = httpx.Response(200, json=found | {"data": data})
        await self._send_webhooks()
        return response

    def _refuses_capture(self, path: str) -> bool:
        """Decide whether an intent cannot be captured; it stays so."""
        if self._world.faults.strikes("capture refused for good"):
            self._not_capturable.add(path)
        return path in self._not_capturable

    def _note_created(self, response: Json) -> None:
        """Let the search lag behind a new intent."""
        intent = response.get("error", {}).get("payment_intent") or response
        if "id" in intent and intent["id"] not in self._found_from:
            lag_seconds = self._random.uniform(1, 90) if self._world.faults.strikes("search lags") else 0.0
            self._found_from[intent["id"]] = self._world.loop.time() + lag_seconds

    def _lose_hold(self, intent_id: str) -> None:
        """Let the bank take a hold back, most often before it can be captured: afterwards there is nothing to lose."""
        loop, after_seconds = self._world.loop, self._random.choice((0.3, 1.0, 60.0)) * self._random.random()
        lose = lambda: loop.create_task(self._change(self._http.post(f"/sandbox/expire/{intent_id}")))  # noqa: E731
        loop.call_later(after_seconds, lose, context=Context())

    async def confirm(self, payment: Json, *, agrees: bool) -> None:
        """The buyer confirms a payment at the bank, or refuses it."""
        await self._change(HttpClient(self._http).confirm(payment, agrees=agrees))

    async def _change(self, request: Awaitable[object]) -> None:
        await request
        await self._send_webhooks()

    async def _send_webhooks(self) -> None:
        """Deliver the events that are new, mostly soon."""
        faults, events = self._world.faults, (await self._http.get("/v1/events", params={"limit": 20})).json()["data"]
        for event in reversed([each for each in events if each["id"] not in self._known_events]):
            self._known_events.add(event["id"])
            if event["type"] == _HELD and faults.strikes("hold lost"):
                self._lose_hold(event["data"]["object"]["id"])
            if faults.strikes("webhook lost"):
                continue
            body = msgspec.json.encode(event)
            for _ in range(2 if faults.strikes("webhook twice") else 1):
                is_late = faults.strikes("webhook late")
                delay_seconds = self._random.uniform(5.0, 120.0) if is_late else self._random.uniform(0.0, 1.0)
                deliver = self._world.deliver_webhook
                self._world.loop.call_later(delay_seconds, deliver, body, _WEBHOOK_ATTEMPTS, context=Context())

    async def books(self) -> Sequence[ProviderIntent]:
        """Return the provider's list, for the invariants."""
        return await intents_of(self._http, INSTALLATION)


class SimulatedTransport(stripe.HTTPClient):
    """The SDK's HTTP transport: everything above it is the SDK's own, retries included."""

    name = "simulation"

    def __init__(self, process: "Process") -> None:
        super().__init__()
        self._process = process

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        await self._process.stay_alive()
        path = "/" + url.split("/", 3)[3]
        response = await self._process.world.provider.request(method.upper(), path, headers, post_data or "")
        if self._process.world.faults.strikes("crash after the provider's response"):
            self._process.crash()
        return response.content, response.status_code, dict(response.headers)

    async def sleep_async(self, secs: float) -> None:
        await asyncio.sleep(secs)

    def _add_jitter_time(self, sleep_seconds: float) -> float:
        return sleep_seconds  # the same in every run of a seed

    async def close_async(self) -> None:
        """There is nothing to close."""


def _connection_error(message: str) -> stripe.APIConnectionError:
    return stripe.APIConnectionError(message, should_retry=True)  # type: ignore[no-untyped-call]


def _not_found() -> httpx.Response:
    return _failure(404, "resource_missing", "invalid_request_error")


def _failure(status: int, code: str, kind: str = "api_error") -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": code, "type": kind}})
