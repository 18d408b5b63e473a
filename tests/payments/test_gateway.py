"""Requests to Stripe over connections that break: no response is ever taken for a decision."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from admitone.kernel import clock, ids
from admitone.local.server import LOOPBACK
from admitone.payments import gateway
from admitone.payments.gateway import Gateway
from admitone.payments.model import Authorized, IntentNotFound, Payment, ProviderResult, Unknown

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content")

INSTALLATION = ids.new_id()
OLD = timedelta(hours=1)
RETURN_URL = "https://tickets.example/"
PAYMENT = Payment(
    id=ids.new_id(),
    order_id=ids.new_id(),
    attempt=1,
    buyer_id=ids.new_id(),
    amount_cents=1999,
    currency="usd",
    token="tok_visa",
    idempotency_key=None,
    created_at=clock.now(),
    due_at=None,
    stripe_id="pi_1",
)
INTENT: dict[str, Any] = {
    "id": "pi_1",
    "amount": 1999,
    "currency": "usd",
    "created": 1,
    "livemode": False,
    "status": "requires_capture",
    "metadata": {
        "installation": str(INSTALLATION),
        "order_id": str(PAYMENT.order_id),
        "payment_id": str(PAYMENT.id),
    },
}


def response(body: bytes, status: str = "200 OK", length: int | None = None, headers: str = "") -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\ncontent-length: {size}\r\n{headers}\r\n".encode() + body


ACCOUNT = response(b'{"id": "acct_1"}')
AUTHORIZED = response(json.dumps(INTENT).encode())
CLOSE = b""

BROKEN = {
    "a closed connection": CLOSE,
    "a truncated response": response(b'{"id":', length=100),
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a response that cannot be decompressed": response(b"xyz", headers="content-encoding: gzip\r\n"),
    "text": response(b"It works!"),
    "invalid UTF-8": response(b"\xff"),
    "JSON of another kind": response(b"[]"),
    "an object that is not an intent": response(b'{"id": "pi_1"}'),
    "a redirect": response(b"", "302 Found", headers="location: /login\r\n"),
    "a page not found": response(b"<html>", "404 Not Found"),
    "an error page": response(b"<html>", "502 Bad Gateway"),
    "an error that is not Stripe's": response(b'{"error": "bad gateway"}', "502 Bad Gateway"),
    "an error without content": response(b'{"error": null}', "400 Bad Request"),
    "an unknown object": response(
        b'{"error": {"type": "invalid_request_error", "code": "resource_missing"}}',
        "404 Not Found",
    ),
    "a refused parameter": response(
        b'{"error": {"type": "invalid_request_error", "code": "parameter_unknown", "param": "expand"}}',
        "400 Bad Request",
    ),
    "too many requests": response(b'{"error": {"type": "rate_limit"}}', "429 Too Many Requests"),
}


@dataclass
class Server:
    """Sends one prepared response to each request; an empty one, or none that is left, closes the connection."""

    responses: list[bytes]
    connections: int = 0
    requests: list[httpx.Headers] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await _head(reader):
                if head["path"] == "/v1/account":
                    writer.write(ACCOUNT)
                    continue
                self.requests.append(head)
                await reader.readexactly(int(head.get("content-length", "0")))
                sent = self.responses.pop(0) if self.responses else CLOSE
                if not sent:
                    return
                writer.write(sent)
                if b"content-length: 100" in sent or sent.startswith(b"SSH"):
                    return
        finally:
            writer.close()
            self.closed.set()


async def _head(reader: asyncio.StreamReader) -> httpx.Headers | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode().splitlines()
    return httpx.Headers({"path": first.split()[1], **dict(line.split(": ", 1) for line in lines[:-1])})


async def bind(account: str) -> str:
    return account


def opened_at(url: str) -> AbstractAsyncContextManager[Gateway]:
    return gateway.open_gateway(url, "sk_test_key", "whsec_secret", INSTALLATION, bind)


@asynccontextmanager
async def connected(responses: Sequence[bytes]) -> AsyncIterator[tuple[Server, Gateway]]:
    """A gateway to a server that sends these responses."""
    server = Server(list(responses))
    listening = await asyncio.start_server(server, LOOPBACK, 0)
    port = listening.sockets[0].getsockname()[1]
    async with (
        listening,
        opened_at(f"http://{LOOPBACK}:{port}") as opened,
    ):
        yield server, opened


async def requested(opened: Gateway, operation: str) -> ProviderResult:
    if operation == "authorize":
        return await opened.authorize(PAYMENT, RETURN_URL)
    if operation == "find":
        return await opened.find(PAYMENT, OLD)
    result: ProviderResult = await getattr(opened, operation)(PAYMENT)
    return result


@pytest.mark.parametrize("operation", ["authorize", "retrieve", "find", "capture", "void", "refund"])
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
async def test_without_a_usable_response_the_result_is_unknown(
    monkeypatch: pytest.MonkeyPatch, operation: str, broken: bytes
) -> None:
    monkeypatch.setattr(gateway, "_RETRIES", 0)
    async with connected([broken]) as (_, opened):
        assert isinstance(await requested(opened, operation), Unknown)


@pytest.mark.parametrize("operation", ["authorize", "retrieve", "find", "capture", "void", "refund"])
async def test_without_a_connection_the_result_is_unknown(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    monkeypatch.setattr(gateway, "_RETRIES", 0)
    async with opened_at(f"http://{LOOPBACK}:1") as opened:
        assert isinstance(await requested(opened, operation), Unknown)


async def test_a_request_is_retried_with_its_idempotency_key() -> None:
    async with connected([CLOSE, response(b"<html>", "503 Service Unavailable"), AUTHORIZED]) as (server, opened):
        assert await opened.authorize(PAYMENT, RETURN_URL) == Authorized("pi_1")
        keys = [request["idempotency-key"] for request in server.requests]
        assert keys == [PAYMENT.provider_key] * 3


async def test_a_request_and_its_retries_have_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "_AUTHORIZE_SECONDS", 0.3)
    silent = asyncio.Event()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    listening = await asyncio.start_server(accept, LOOPBACK, 0)
    url = f"http://{LOOPBACK}:{listening.sockets[0].getsockname()[1]}"
    async with listening, opened_at(url) as opened:
        began = clock.monotonic_seconds()
        assert isinstance(await opened.authorize(PAYMENT, RETURN_URL), Unknown)
        assert clock.monotonic_seconds() - began < 2.0
        silent.set()


async def test_a_connection_is_reused_and_closed_at_the_end() -> None:
    async with connected([AUTHORIZED] * 3) as (server, opened):
        for _ in range(3):
            assert await opened.authorize(PAYMENT, RETURN_URL) == Authorized("pi_1")
        assert (server.connections, len(server.requests)) == (1, 3)
        assert not server.closed.is_set()
    async with asyncio.timeout(5):
        await server.closed.wait()


async def test_a_connection_that_was_closed_meanwhile_is_replaced() -> None:
    closing = response(json.dumps(INTENT).encode(), headers="connection: close\r\n")
    async with connected([closing, AUTHORIZED]) as (server, opened):
        for _ in range(2):
            assert await opened.authorize(PAYMENT, RETURN_URL) == Authorized("pi_1")
        assert (server.connections, len(server.requests)) == (2, 2)


async def test_a_payment_is_not_found_only_if_the_list_does_not_have_it() -> None:
    nothing, another = (
        response(b'{"data": []}'),
        {**INTENT, "metadata": {**INTENT["metadata"], "payment_id": str(ids.new_id())}},
    )
    listed: dict[str, Any] = {"data": [another], "has_more": False}
    async with connected([nothing, response(json.dumps(listed).encode())]) as (_, opened):
        assert await opened.find(PAYMENT, OLD) == IntentNotFound()
    async with connected([nothing, CLOSE, CLOSE, CLOSE]) as (_, opened):
        assert isinstance(await opened.find(PAYMENT, OLD), Unknown)


async def test_a_key_of_another_account_decides_nothing() -> None:
    """Its list is empty, but the payment may exist in the account that the key was of before."""

    async def bound_before(_account: str) -> str:
        return "acct_2 (test mode)"

    nothing = response(b'{"data": []}')
    async with connected([nothing, nothing]) as (server, opened):
        opened.bind_account = bound_before
        for operation in ("authorize", "retrieve", "find", "capture", "void", "refund"):
            assert isinstance(await requested(opened, operation), Unknown)
        assert not server.requests


async def test_an_intent_of_another_installation_is_not_the_payments() -> None:
    foreign = {**INTENT, "metadata": {**INTENT["metadata"], "installation": str(ids.new_id())}}
    async with connected([response(json.dumps(foreign).encode())]) as (_, opened):
        assert await opened.retrieve(PAYMENT) == Unknown("installation differs")


async def test_the_list_is_read_on_from_where_a_lookup_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "_RETRIES", 0)
    another = {**INTENT, "id": "pi_2", "metadata": {**INTENT["metadata"], "payment_id": str(ids.new_id())}}
    first = response(json.dumps({"data": [another], "has_more": True}).encode())
    second = response(json.dumps({"data": [INTENT], "has_more": False}).encode())
    nothing = response(b'{"data": []}')
    async with connected([nothing, first, CLOSE, nothing, second]) as (server, opened):
        assert isinstance(await opened.find(PAYMENT, OLD), Unknown)
        assert await opened.find(PAYMENT, OLD) == Authorized("pi_1")
        assert "starting_after=pi_2" in server.requests[-1]["path"]


async def test_the_list_is_read_by_stripes_clock() -> None:
    theirs = clock.now() - timedelta(minutes=90)
    nothing = response(b'{"data": []}', headers=f"date: {format_datetime(theirs, usegmt=True)}\r\n")
    async with connected([nothing, nothing]) as (server, opened):
        assert await opened.find(PAYMENT, OLD) == IntentNotFound()
        [since] = re.findall(r"created%5Bgte%5D=(\d+)|created\[gte\]=(\d+)", server.requests[-1]["path"])
        began = (theirs - OLD).timestamp()
        assert began - 1500 < int("".join(since)) < began
