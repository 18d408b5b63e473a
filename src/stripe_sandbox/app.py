"""The sandbox as an ASGI application: Stripe's API, the bank's page, and the switches for tests."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from email.utils import formatdate
from functools import partial
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, Final, Literal

import msgspec
import uvicorn
from jinja2 import Environment, PackageLoader
from starlette.applications import Starlette
from starlette.datastructures import URL, QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stripe_sandbox import (
    accounts,  # noqa: F401 – it declares an operation
    payment_intents,
)
from stripe_sandbox.errors import ApiError, IntentFailed, Json, internal_error, not_found
from stripe_sandbox.events import RETRY_DELAYS_SECONDS, Webhooks
from stripe_sandbox.faults import Faults, RequestFault, take
from stripe_sandbox.operations import OPERATIONS, ApiOperation, Context, Run, new_id
from stripe_sandbox.parameters import Params, parse
from stripe_sandbox.store import Reply, Store, encode

# The sandbox pays everybody: only programs on this machine may connect.
LOOPBACK: Final = "127.0.0.1"

_KEY_SECONDS: Final = 24 * 3600
_EXPIRE_EVERY_SECONDS: Final = 30.0
_SERVER_ERROR: Final = 500
_NO_PARAMS: Final = Params()
_PAGE: Final = Environment(loader=PackageLoader("stripe_sandbox", "."), autoescape=True).get_template("page.html")


def _reply(status: int, body: Json) -> Reply:
    request_id = new_id("req")
    if "error" in body:
        body = {"error": body["error"] | {"request_log_url": f"https://dashboard.stripe.com/test/logs/{request_id}"}}
    return Reply(status, encode(body), request_id)


class ConnectionDropped(Exception):
    """The connection ends before the response"""


class DroppedResponse(Response):
    """A response that breaks off, after which the server closes the connection."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})


class Sandbox:
    def __init__(self, store: Store, webhooks: Webhooks, faults: Faults, secret_key: str) -> None:
        self._store = store
        self._webhooks = webhooks
        self._faults = faults
        self._secret_key = secret_key
        self._keys_in_use: set[str] = set()

    async def operate(self, operation: ApiOperation, request: Request) -> Response:
        """Respond to a request of the API, and let the fault happen that is planned for it; raises ApiError.

        Source: Stripe API reference, "Idempotent requests": once its parameters are valid, the response to a request is
        stored, whatever it is, and is forgotten after a day.
        """
        self._check_secret_key(request)
        # Read first: a request that is delayed has its effect even when its sender has given up.
        encoded = (request.scope["query_string"] if request.method == "GET" else await request.body()).decode("latin-1")
        fault = take(self._faults.requests, operation.name) or RequestFault()  # which lets nothing happen
        await _suffer(fault, "before")
        params = parse(encoded, operation.params, operation.sdk_params)
        key = request.headers.get("idempotency-key", "") if request.method == "POST" else ""
        fingerprint = hashlib.sha256("&".join([request.scope["path"], *sorted(encoded.split("&"))]).encode()).digest()
        if (first := self._store.find_reply(key, int(time.time()) - _KEY_SECONDS)) is not None:
            return _replay(key, fingerprint, *first)
        if key in self._keys_in_use:
            message = f"There is currently another in-progress request using this Idempotent Key: {key}."
            raise ApiError(message, 409, type_="idempotency_error", code="idempotency_key_in_use")
        self._keys_in_use |= {key} - {""}
        try:
            await _suffer(fault, "during")
            context = self._context(request.path_params.get("id", ""), f"http://{request.headers.get('host', '')}")
            reply = self._execute(operation.run, context, params, key, fingerprint)
            if (fault.when, fault.answer) == ("after", "internal_error"):
                self._store.save_reply(key, fingerprint, context.now, _reply(_SERVER_ERROR, internal_error().body))
        finally:
            self._keys_in_use.discard(key)
        await _suffer(fault, "after")
        return _response(reply)

    def _check_secret_key(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.encode(), self._secret_key.encode()):
            raise ApiError("Invalid API Key provided, or none, using Bearer auth ('Authorization: Bearer KEY')", 401)

    def _context(self, object_id: str, base_url: str = "") -> Context:
        return Context(self._store, self._webhooks.publish, int(time.time()), object_id, base_url)

    def _execute(
        self, run: Run, context: Context, params: Params = _NO_PARAMS, key: str = "", fingerprint: bytes = b""
    ) -> Reply:
        """Run an operation in a transaction, in which its reply is saved by its idempotency key."""
        save = partial(self._store.save_reply, key, fingerprint, context.now)
        try:
            with self._store.transaction():
                try:
                    reply = _reply(200, context.expanded(run(context, params), params.expand))
                except IntentFailed as failed:
                    reply = _reply(failed.status, failed.body)
                save(reply)
        except ApiError as error:
            reply = _reply(error.status, error.body)
            save(reply)
        return reply

    async def bank(self, request: Request) -> Response:
        """Show the bank's page (GET), or apply the buyer's decision and send the buyer back (POST)."""
        is_post = request.method == "POST"
        sent = QueryParams(await request.body()) if is_post else request.query_params
        intent = self._store.find("payment_intent", request.path_params["id"])
        secret = sent.get("client_secret", "").encode()
        if intent is None or not hmac.compare_digest(secret, intent["client_secret"].encode()):
            return _page("Payment", 404, message="There is no such payment.")
        if intent["status"] != "requires_action":
            return _page("Payment", message="Nothing is left to confirm for this payment.")
        if not is_post:
            amount = f"{Decimal(intent['amount']).scaleb(-2)} {intent['currency'].upper()}"
            return _page("Confirm your payment", amount=amount, client_secret=intent["client_secret"])
        is_approved = sent.get("outcome") == "approve"
        decide = payment_intents.approve if is_approved else payment_intents.refuse
        self._execute(decide, self._context(intent["id"]))
        return_url = intent["next_action"].get("redirect_to_url", {}).get("return_url")
        if return_url is None:
            return _page("Payment", message="Done. You can close this page.")
        url = URL(return_url).include_query_params(
            payment_intent=intent["id"],
            payment_intent_client_secret=intent["client_secret"],
            redirect_status="succeeded" if is_approved else "failed",
        )
        return RedirectResponse(url, status_code=303)

    async def expire(self, request: Request) -> Response:
        """Let the authorization of a PaymentIntent expire now; raises ApiError."""
        _check_program(request)
        return _response(self._execute(payment_intents.expire, self._context(request.path_params["id"])))

    async def expire_overdue(self) -> None:
        """Let authorizations expire that nobody captured in time, until cancelled."""
        while True:
            for intent_id in self._store.authorized_until(int(time.time()) - payment_intents.AUTHORIZATION_SECONDS):
                self._execute(payment_intents.expire, self._context(intent_id))
            await asyncio.sleep(_EXPIRE_EVERY_SECONDS)

    async def faults(self, request: Request) -> Response:
        """Show (GET), add to (POST) or clear (DELETE) the faults that are still to happen; raises ApiError."""
        _check_program(request)
        if request.method == "POST":
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise ApiError("The body must be application/json", 415)
            try:
                more = msgspec.json.decode(await request.body(), type=Faults)
            except msgspec.MsgspecError as error:
                raise ApiError(str(error)) from None
            self._faults.requests += more.requests
            self._faults.webhooks += more.webhooks
        elif request.method == "DELETE":
            self._faults.requests.clear()
            self._faults.webhooks.clear()
        return Response(encode(self._faults), media_type="application/json")


def create_app(
    database: Path,
    *,
    secret_key: str,
    webhook_url: str = "",
    webhook_secret: str = "",
    retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS,
    lock_seconds: float = 15.0,
) -> Starlette:
    """Return the sandbox on a database file, which is created if it is missing and closed when the sandbox ends.

    Without a `webhook_url` events are only listed. Raises sqlite3.OperationalError when another process has the file
    for longer than `lock_seconds`.
    """
    store, faults = Store(database, lock_seconds), Faults()
    webhooks = Webhooks(store, faults, webhook_url, webhook_secret, retry_delays_seconds)
    sandbox = Sandbox(store, webhooks, faults, secret_key)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with webhooks.running():
            expiring = asyncio.create_task(sandbox.expire_overdue())
            yield
            expiring.cancel()
        store.close()

    handlers: dict[Any, Any] = {404: _unknown_url, 405: _unknown_url, ApiError: _refused, ConnectionDropped: _dropped}
    routes = [
        *(Route(each.path, partial(sandbox.operate, each), methods=[each.method]) for each in OPERATIONS),
        Route("/sandbox/authenticate/{id}", sandbox.bank, methods=["GET", "POST"]),
        Route("/sandbox/expire/{id}", sandbox.expire, methods=["POST"]),
        Route("/sandbox/faults", sandbox.faults, methods=["GET", "POST", "DELETE"]),
    ]
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


def create_server(app: Starlette, port: int) -> uvicorn.Server:
    config = uvicorn.Config(
        app, LOOPBACK, port, access_log=False, log_level="error", timeout_keep_alive=60, date_header=False
    )
    config.timeout_graceful_shutdown = 2
    return uvicorn.Server(config)


def _page(title: str, status: int = 200, **values: str) -> Response:
    nonce = token_urlsafe(16)
    # No `form-action`: it would also forbid the redirect to the marketplace that follows the form.
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; frame-ancestors 'none'"
    page = _PAGE.render(values, title=title, nonce=nonce)
    return HTMLResponse(page, status, {"content-security-policy": policy})


async def _suffer(fault: RequestFault, when: Literal["before", "during", "after"]) -> None:
    """Let the fault happen if this is its moment; raises ApiError or ConnectionDropped."""
    if fault.when != when:
        return
    await asyncio.sleep(fault.delay_ms / 1000)
    match fault.answer:
        case "internal_error":
            raise internal_error()
        case "too_many_requests":
            raise ApiError("Request rate limit exceeded", 429, code="rate_limit")
        case "not_found":
            raise not_found()
        case "refused":
            raise ApiError("This operation is not allowed for this account", code="status_transition_invalid")
        case "drop":
            raise ConnectionDropped


def _check_program(request: Request) -> None:
    """Refuse what a browser sends for a page: a page of any site could otherwise use the switches for tests."""
    site = request.headers.get("sec-fetch-site", "none")
    if site != "none" or "origin" in request.headers:
        raise ApiError("Pages cannot use this; send the request from a program", 403)


def _response(reply: Reply, headers: Mapping[str, str] | None = None) -> Response:
    # The clock of `created`, by which clients compare theirs.
    date = formatdate(time.time(), usegmt=True)
    headers = {"request-id": reply.request_id, "date": date, **(headers or {})}
    return Response(reply.body, reply.status, headers, media_type="application/json")


def _replay(key: str, fingerprint: bytes, first_fingerprint: bytes, first: Reply) -> Response:
    if first_fingerprint != fingerprint:
        raise ApiError(
            "Keys for idempotent requests can only be used for the same endpoint and with the same parameters they were"
            f" first used with. Try using a key other than '{key}' if you meant to execute a different request.",
            type_="idempotency_error",
        )
    headers = {"idempotent-replayed": "true", "original-request": first.request_id}
    if first.status >= _SERVER_ERROR:
        headers["stripe-should-retry"] = "false"
    return _response(first, headers)


async def _refused(_request: Request, error: ApiError) -> Response:
    return _response(_reply(error.status, error.body))


async def _unknown_url(request: Request, _error: Exception) -> Response:
    return await _refused(request, ApiError(f"Unrecognized request URL ({request.method}: {request.url.path}).", 404))


async def _dropped(_request: Request, _error: ConnectionDropped) -> Response:
    return DroppedResponse()
