"""Connections: what is too large, too slow or too much is refused before the application is asked."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest
import pytest_asyncio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from admitone.kernel.http import connection as limits
from admitone.kernel.http.app import HttpApp
from admitone.kernel.http.connection import OpenConnections
from admitone.kernel.http.server import bind_socket, listen
from admitone.kernel.settings import Settings
from admitone.local.server import LOOPBACK
from tests.support import eventually

HOST = b"host: 127.0.0.1\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST


@dataclass
class Client:
    """A client that writes its requests by hand."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Read one response; return its status, headers and body."""
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.strip().split("\r\n")
            headers = dict(each.lower().split(": ", 1) for each in lines[1:])
            return int(lines[0].split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def rest(self) -> bytes:
        """Read until the server closes the connection."""
        async with asyncio.timeout(30):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""


@dataclass
class Server:
    port: int
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    addresses: list[list[str]] = field(default_factory=list)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    async def show(request: Request) -> PlainTextResponse:
        made.addresses.append(request.headers.getlist("x-forwarded-for"))
        return PlainTextResponse("shown")

    async def large(_request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b"x" * 100_000

        return StreamingResponse(chunks())

    async def held(_request: Request) -> PlainTextResponse:
        await made.gate.wait()
        return PlainTextResponse("held")

    async def stream(_request: Request) -> StreamingResponse:
        async def events() -> AsyncIterator[bytes]:
            yield b"data: first\n\n"
            await made.gate.wait()
            yield b"data: second\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    routes = [
        Route("/", show, methods=["GET", "POST"]),
        Route("/large", large),
        Route("/held", held),
        Route("/stream", stream),
    ]
    public, stop, ready = bind_socket(LOOPBACK, 0), asyncio.Event(), asyncio.Event()
    made = Server(public.getsockname()[1])
    settings = Settings(port=made.port)

    async def on_ready() -> None:
        ready.set()

    serving = asyncio.create_task(listen(HttpApp(routes, settings), public, settings, on_ready=on_ready, stop=stop))
    await ready.wait()
    yield made
    made.gate.set()
    stop.set()
    await serving


HEADS: list[tuple[str, bytes, int]] = [
    ("100 fields", GET + b"x: 1\r\n" * 99 + b"\r\n", 200),
    ("101 fields", GET + b"x: 1\r\n" * 100 + b"\r\n", 431),
    ("a field of 30 KiB", GET + b"x: " + b"1" * 30 * 1024 + b"\r\n\r\n", 200),
    ("a field of 33 KiB", GET + b"x: " + b"1" * 33 * 1024 + b"\r\n\r\n", 431),
    ("fields of 33 KiB in all", GET + (b"x: " + b"1" * 1024 + b"\r\n") * 33 + b"\r\n", 431),
    ("a target of 33 KiB", b"GET /" + b"a" * 33 * 1024 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    ("no HTTP", b"hello\r\n\r\n", 400),
    ("no target", b"GET  HTTP/1.1\r\n\r\n", 400),
    ("a target that is no path", b"GET http://[ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a target without a path", b"CONNECT tickets.example:80 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("a control character", GET + b"x: \0\r\n\r\n", 400),
    ("two lengths", GET + b"content-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
    ("a length and chunks", GET + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
]


@pytest.mark.parametrize(("head", "status"), [each[1:] for each in HEADS], ids=[each[0] for each in HEADS])
async def test_a_head_beyond_the_limits_is_refused_with_safe_headers(server: Server, head: bytes, status: int) -> None:
    async with server.connected() as eve:
        await eve.send(head)
        found, headers, body = await eve.response()
        assert found == status
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        if status != 200:
            assert body.startswith(b'{"errors":[{"message":')
            assert await eve.rest() == b""
    async with server.connected() as bob:
        await bob.send(GET + b"\r\n")
        assert (await bob.response())[0] == 200


CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "beginning",
    [GET + b"x: ", GET, b"GET /", CHUNKED + b"1\r\na\r\n0\r\nx: ", CHUNKED + b"1;"],
    ids=["field", "field name", "target", "trailer", "chunk extension"],
)
async def test_what_has_no_end_is_not_kept(server: Server, beginning: bytes) -> None:
    """200 MB in one field once stopped the marketplace."""
    sent = 0
    async with server.connected() as eve:
        await eve.send(beginning)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while sent < 200_000_000:
                await eve.send(b"x" * 10_000)
                sent += 10_000
    # What the kernel buffers counts as sent.
    assert sent < 20_000_000


async def test_a_trailer_is_not_taken_for_a_header(server: Server) -> None:
    chunks = b"1\r\na\r\n0\r\nx-forwarded-for: 203.0.113.9\r\n\r\n"
    async with server.connected() as eve:
        await eve.send(b"POST / HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n" + chunks)
        assert (await eve.response())[0] == 400
    assert server.addresses == []


async def test_a_body_of_small_chunks_is_received(server: Server) -> None:
    async with server.connected() as bob:
        await bob.send(CHUNKED + b"1\r\na\r\n" * 60_000 + b"0\r\n\r\n")
        assert (await bob.response())[0] == 200


async def test_requests_in_pieces_and_pipelined_ones_are_served(server: Server) -> None:
    body = b"POST / HTTP/1.1\r\n" + HOST + b"content-length: 3\r\n\r\nabc"
    async with server.connected() as bob:
        for octet in body + body:
            await bob.send(bytes([octet]))
        await bob.send(GET + b"\r\n" + body + GET + b"\r\n")
        assert [(await bob.response())[0] for _ in range(5)] == [200] * 5


async def test_a_refusal_is_never_taken_for_the_response_to_another_request(server: Server) -> None:
    async with server.connected() as eve:
        await eve.send(b"GET /held HTTP/1.1\r\n" + HOST + b"\r\n")
        await eve.send(b"hello\r\n\r\n")
        assert await eve.rest() == b""


# Time.


SLOW: list[tuple[str, bytes, bytes]] = [
    ("nothing", b"", b""),
    ("half a head", GET, b"HTTP/1.1 408 "),
    ("empty lines", b"\r\n\r\n", b""),
]


@pytest.mark.parametrize(("sent", "received"), [each[1:] for each in SLOW], ids=[each[0] for each in SLOW])
async def test_a_head_that_does_not_arrive_in_time_ends_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch, sent: bytes, received: bytes
) -> None:
    monkeypatch.setattr(limits, "_HEAD_SECONDS", 0.2)
    async with server.connected() as eve:
        await eve.send(sent)
        assert (await eve.rest())[:13] == received
    async with server.connected() as eve:
        await eve.send(GET + b"\r\n")
        assert (await eve.response())[0] == 200
        await eve.send(sent)
        assert (await eve.rest())[:13] == received


async def test_a_response_may_take_longer_than_a_head(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_HEAD_SECONDS", 0.05)
    async with server.connected() as slow, server.connected() as bob:
        await slow.send(b"GET /held HTTP/1.1\r\n" + HOST + b"\r\n")
        await bob.send(b"GET ")
        assert (await bob.rest())[:13] == b"HTTP/1.1 408 "
        server.gate.set()
        assert (await slow.response())[0] == 200


async def test_an_event_stream_stays_open(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_HEAD_SECONDS", 0.05)
    monkeypatch.setattr(limits, "_STALLED_SECONDS", 0.05)
    async with server.connected() as alice, server.connected() as bob, asyncio.timeout(30):
        await alice.send(b"GET /stream HTTP/1.1\r\n" + HOST + b"\r\n")
        await alice.reader.readuntil(b"data: first\n\n")
        await bob.send(b"GET ")
        assert (await bob.rest())[:13] == b"HTTP/1.1 408 "
        server.gate.set()
        await alice.reader.readuntil(b"data: second\n\n")


async def test_a_client_that_reads_nothing_is_disconnected(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_STALLED_SECONDS", 0.1)
    async with server.connected() as eve:
        await eve.send(b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n")

        async def is_reset() -> bool:
            # Writing fails once the server has reset the connection; reading would make room.
            try:
                await eve.send(b"\r\n")
            except ConnectionError:
                return True
            return eve.writer.is_closing()

        await eventually(is_reset, "the connection is reset")


# Number.


@pytest.mark.parametrize(
    ("address", "opened"),
    [("203.0.113.9", 2), ("2001:db8::1", 2), ("127.0.0.1", 4), ("::1", 4), (None, 2)],
)
def test_connections_of_one_client_are_limited(address: str | None, opened: int) -> None:
    connections = OpenConnections(in_all_max=4, per_client_max=2)
    client = ip_address(address) if address else None
    assert [connections.open(client) for _ in range(6)].count(True) == opened
    assert connections.open(ip_address("192.0.2.1")) is (opened < 4)
    connections.close(client)
    assert connections.open(client)


def test_a_client_cannot_take_another_address_of_its_own_network() -> None:
    connections = OpenConnections(in_all_max=10, per_client_max=1)
    assert connections.open(ip_address("2001:db8::1"))
    assert not connections.open(ip_address("2001:db8::2"))
    assert connections.open(ip_address("2001:db8:0:1::1"))


def test_behind_a_proxy_connections_are_limited_only_in_all() -> None:
    connections = OpenConnections(in_all_max=3, per_client_max=None)
    assert [connections.open(ip_address("10.0.0.1")) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("limit", "opened"),
    [((1024, 1024), 384), ((1024, 4096), 1920), ((256, resource.RLIM_INFINITY), 10_000), ((100_000, 100_000), 10_000)],
)
def test_connections_leave_descriptors_for_everything_else(
    monkeypatch: pytest.MonkeyPatch, limit: tuple[int, int], opened: int
) -> None:
    soft, hard = limit
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limit)
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, wanted: raised.append(wanted))
    raised: list[tuple[int, int]] = []
    connections = limits.limited_connections(trust_proxy=False)
    assert [connections.open(ip_address("127.0.0.1")) for _ in range(10_001)].count(True) == opened
    assert all(soft < to and kept == hard for to, kept in raised)


async def test_a_connection_beyond_the_limit_is_refused_and_the_others_go_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenConnections, "open", _refusing_after(2))
    async with server.connected() as alice, server.connected() as bob:
        for each in (alice, bob):
            await each.send(GET + b"\r\n")
            assert (await each.response())[0] == 200
        async with server.connected() as carol:
            status, headers, _ = await carol.response()
            assert (status, headers["retry-after"]) == (503, "1")
            assert await carol.rest() == b""
        await alice.send(GET + b"\r\n")
        assert (await alice.response())[0] == 200


def _refusing_after(left: int) -> Callable[..., bool]:
    def open_connection(_self: OpenConnections, _address: object) -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    return open_connection
