"""The sandbox as an ASGI application: the provider's API, the bank's page, and the switches for faults."""

import asyncio
import hmac
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import parse_qsl

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from admitone.sandbox import pages
from admitone.sandbox.faults import Faults, RequestFault, Wanted
from admitone.sandbox.ids import new_id
from admitone.sandbox.ledger import Ledger
from admitone.sandbox.problems import Json, Problem, internal, invalid, too_many_requests
from admitone.sandbox.provider import OFFERS, Offer, Provider, Reply
from admitone.sandbox.webhooks import RETRY_DELAYS_SECONDS, Webhooks

# The sandbox pays whoever asks: only this machine may ask.
LOOPBACK: Final = "127.0.0.1"

# What a marketplace's webhook endpoint subscribes to; the other events are only listed.
WEBHOOK_TYPES: Final = frozenset(
    {
        "payment_intent.amount_capturable_updated",
        "payment_intent.payment_failed",
        "payment_intent.succeeded",
        "payment_intent.canceled",
        "charge.refunded",
    }
)
_BODY_BYTES_MAX: Final = 256 * 1024
_SERVER_ERROR: Final = 500


class _Dropped(Exception):
    """The connection breaks instead of an answer"""


class Sandbox:
    """Everything that answers requests."""

    def __init__(self, provider: Provider, faults: Faults, api_key: str) -> None:
        self._provider = provider
        self._faults = faults
        self._api_key = api_key

    async def call(self, offer: Offer, request: Request) -> Response:
        """Answer one request of the API, or suffer the fault that was wanted for it."""
        try:
            self._check_api_key(request)
            # Read first: a request that is held up takes effect even when its sender has given up.
            encoded = request.url.query if offer.method == "GET" else await _form(request)
            fault = self._faults.for_request(offer.name)
            if fault is not None and fault.when == "before":
                await _suffer(fault)
            reply = await self._reply(offer, request, encoded, fault)
            if fault is not None and fault.when == "after":
                await _suffer(fault)
        except Problem as problem:
            reply = Reply(problem.status, problem.body, new_id("req"))
        return _json(reply)

    async def _reply(self, offer: Offer, request: Request, encoded: str, fault: RequestFault | None) -> Reply:
        base_url = f"http://{request.headers.get('host', '')}"
        asked = self._provider.read(offer, encoded, request.path_params.get("id", ""), base_url)
        if offer.method == "GET":
            return await self._provider.look(offer, asked)
        spoils = fault is not None and fault.when == "after" and fault.answer == "internal_error"
        key = request.headers.get("idempotency-key")
        return await self._provider.change(offer, asked, request.url.path, encoded, key, spoils=spoils)

    def _check_api_key(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Problem(401, "You did not provide an API key, using Bearer auth (e.g. 'Authorization: Bearer KEY').")
        if not hmac.compare_digest(key.encode(), self._api_key.encode()):
            raise Problem(401, f"Invalid API Key provided: {key[:8]}{'*' * 8}")

    async def authenticate(self, request: Request) -> Response:
        """Show the bank's page (GET), or take the buyer's decision and send the buyer back (POST)."""
        intent = await self._provider.intent_for(request.path_params["id"])
        given = dict(parse_qsl(await _form(request))) if request.method == "POST" else dict(request.query_params)
        secret = given.get("client_secret", "")
        if intent is None or not hmac.compare_digest(secret.encode(), intent["client_secret"].encode()):
            return _html(pages.finished("There is no such payment."), 404)
        if intent["status"] != "requires_action":
            return _html(pages.finished("Nothing is left to confirm for this payment."))
        if request.method == "GET":
            return _html(pages.authenticate(intent))
        is_approved = given.get("outcome") == "approve"
        with suppress(Problem):  # a second click: the first one decided
            await self._provider.authenticate(intent["id"], is_approved=is_approved)
        return_url = intent["next_action"].get("redirect_to_url", {}).get("return_url")
        if return_url is None:
            return _html(pages.finished("Done. You can close this page."))
        return RedirectResponse(pages.way_back(return_url, intent, is_approved=is_approved), status_code=303)

    async def expire(self, request: Request) -> Response:
        """Let an intent's authorisation lapse now."""
        try:
            intent = await self._provider.expire(request.path_params["id"])
        except Problem as problem:
            return _json(Reply(problem.status, problem.body, new_id("req")))
        return _json(Reply(200, intent, new_id("req")))

    async def faults(self, request: Request) -> Response:
        """Show (GET), add to (POST) or clear (DELETE) the faults that are still to happen."""
        if request.method == "POST":
            try:
                self._faults.add(msgspec.json.decode(await request.body(), type=Wanted))
            except msgspec.MsgspecError as error:
                return _json(Reply(400, invalid(str(error)).body, new_id("req")))
        elif request.method == "DELETE":
            self._faults.clear()
        return Response(msgspec.json.encode(self._faults.wanted), media_type="application/json")


async def _form(request: Request) -> str:
    body = await request.body()
    if len(body) > _BODY_BYTES_MAX:
        raise invalid("Invalid request: the body is too large.")
    try:
        return body.decode("ascii")
    except UnicodeDecodeError:
        raise invalid("Invalid request: the body must be form-encoded.") from None


async def _suffer(fault: RequestFault) -> None:
    if fault.delay_ms:
        await asyncio.sleep(fault.delay_ms / 1000)
    match fault.answer:
        case "internal_error":
            raise internal()
        case "too_many_requests":
            raise too_many_requests()
        case "drop":
            raise _Dropped
        case "none":
            return


def _json(reply: Reply) -> Response:
    headers = {"request-id": reply.request_id}
    if reply.is_replay:
        headers |= {"idempotent-replayed": "true", "original-request": reply.request_id}
        if reply.status >= _SERVER_ERROR:
            headers["stripe-should-retry"] = "false"
    return Response(msgspec.json.encode(reply.body), reply.status, headers, media_type="application/json")


def _html(page: str, status: int = 200) -> Response:
    return HTMLResponse(page, status, {"content-security-policy": pages.CONTENT_SECURITY_POLICY})


class _Endpoint:
    """Serves one operation; a dropped connection is an answer that breaks off."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await _sandbox(scope).call(self._offer, Request(scope, receive))
        except _Dropped:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            return
        await response(scope, receive, send)


def _sandbox(scope: Scope) -> Sandbox:
    sandbox = scope["app"].state.sandbox
    assert isinstance(sandbox, Sandbox)
    return sandbox


async def _ready(_request: Request) -> Response:
    body: Json = {"status": "ready", "pid": os.getpid()}
    return Response(msgspec.json.encode(body), media_type="application/json")


async def _unknown(request: Request, _error: Exception) -> Response:
    url = f"{request.method}: {request.url.path}"
    return _json(Reply(404, Problem(404, f"Unrecognized request URL ({url}).").body, new_id("req")))


def _beside(method: Callable[[Sandbox, Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await method(_sandbox(request.scope), request)

    return endpoint


def create_app(
    database_url: str,
    *,
    api_key: str,
    webhook_url: str = "",
    webhook_secret: str = "",
    webhook_types: Collection[str] = WEBHOOK_TYPES,
    retry_delays_seconds: tuple[float, ...] = RETRY_DELAYS_SECONDS,
) -> Starlette:
    """Return the sandbox on its own database, whose owner `database_url` names.

    Without a `webhook_url` events are only listed. The secret signs webhooks as Stripe does.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        ledger = await Ledger.open(database_url)
        faults = Faults()
        webhooks = Webhooks(
            ledger,
            faults,
            url=webhook_url,
            secret=webhook_secret,
            types=webhook_types,
            retry_delays_seconds=retry_delays_seconds,
        )
        provider = Provider(ledger, webhooks)
        app.state.sandbox = Sandbox(provider, faults, api_key)
        background = [asyncio.create_task(each) for each in (webhooks.run(), provider.keep_house())]
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await ledger.close()

    return Starlette(
        routes=[
            Route("/sandbox/ready", _ready),
            Route("/sandbox/faults", _beside(Sandbox.faults), methods=["GET", "POST", "DELETE"]),
            Route("/sandbox/authenticate/{id}", _beside(Sandbox.authenticate), methods=["GET", "POST"]),
            Route("/sandbox/expire/{id}", _beside(Sandbox.expire), methods=["POST"]),
            *(Route(offer.path, _Endpoint(offer), methods=[offer.method]) for offer in OFFERS),
        ],
        exception_handlers={404: _unknown, 405: _unknown},
        lifespan=lifespan,
    )


class _Server(uvicorn.Server):
    """Uvicorn that says when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def server(app: Starlette, port: int, on_ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """Return a server for the sandbox on the loopback interface; `on_ready` is called once it listens."""
    config = uvicorn.Config(
        app,
        host=LOOPBACK,
        port=port,
        access_log=False,
        # Connections dropped on demand are errors to uvicorn.
        log_level="critical",
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=2,
        timeout_keep_alive=60,
    )
    return _Server(config, on_ready)


def serve(
    database_url: str,
    *,
    port: int,
    api_key: str,
    webhook_url: str = "",
    webhook_secret: str = "",
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve on a loopback port until SIGINT or SIGTERM; see `create_app` for what the rest means."""
    app = create_app(database_url, api_key=api_key, webhook_url=webhook_url, webhook_secret=webhook_secret)
    server(app, port, on_ready).run()
