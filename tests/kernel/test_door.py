"""The door: over a real connection, what there is no room for is refused at once, and the connection goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel import http
from admitone.kernel.http import OK, Answer, Call, operation
from admitone.kernel.runner import App, bound, listen
from admitone.kernel.service import Service
from admitone.local.server import LOOPBACK, free_port
from tests.engines import Databases
from tests.support import StartNats, eventually, running_app


@dataclass
class Place:
    """A marketplace with one operation that two may use at once, until `gate` lets them go on."""

    port: int
    app: App
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    inside: int = 0

    async def is_full(self) -> bool:
        return self.inside == 2

    @asynccontextmanager
    async def connected(self) -> AsyncIterator["Line"]:
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            yield Line(reader, writer)
        finally:
            writer.close()

    @asynccontextmanager
    async def filled(self) -> AsyncIterator[None]:
        """Have two wait inside."""
        async with self.connected() as first, self.connected() as second:
            for line in (first, second):
                line.send(b"POST /api/held HTTP/1.1\r\nhost: here\r\n\r\n")
            await eventually(self.is_full, "two are inside")
            yield
            self.gate.set()
            assert await first.answer() == (200, b"")
            assert await second.answer() == (200, b"")


@dataclass
class Line:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: str = ""

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, has_body: bool = True) -> tuple[int, bytes]:
        async with asyncio.timeout(30):
            self.head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(self.head.partition("content-length: ")[2].partition("\r\n")[0])
            body = await self.reader.readexactly(length) if has_body else b""
        return int(self.head.split()[1]), body

    async def is_closed(self) -> bool:
        async with asyncio.timeout(30):
            return await self.reader.read() == b""


@pytest_asyncio.fixture
async def place(databases: Databases, start_nats: StartNats, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(http, "_UNDER_WAY_MAX", 2)

    @operation("POST", "/api/held")
    async def held(_call: Call[None]) -> Answer:
        """Wait"""
        made.inside += 1
        await made.gate.wait()
        return Answer(OK)

    @operation("GET", "/api/open")
    async def unlocked(_call: Call[None]) -> Answer:
        """Do not wait"""
        return Answer(OK, b"{}")

    service = Service("alpha", operations=[held, unlocked])
    async with running_app(databases, start_nats, service, AUTH, metrics_port=free_port()) as app:
        public, stop = bound(LOOPBACK, 0), asyncio.Event()
        made = Place(public.getsockname()[1], app)
        ready = asyncio.Event()

        async def is_ready() -> None:
            ready.set()

        serving = asyncio.create_task(
            listen(app, public, app.running["alpha"].settings, on_ready=is_ready, stop=stop, refusal=app.refusal)
        )
        await ready.wait()
        yield made
        made.gate.set()
        stop.set()
        await serving


BUSY = b'{"errors":[{"message":"'


async def test_who_finds_it_full_is_told_so_and_served_on_the_same_connection_when_there_is_room(place: Place) -> None:
    async with place.connected() as line:
        async with place.filled():
            for path in (b"/api/held", b"/api/held?again=1"):
                line.send(b"POST " + path + b' HTTP/1.1\r\nhost: here\r\ncontent-length: 9\r\n\r\n{"a":')
                status, body = await line.answer()
                assert (status, body[: len(BUSY)]) == (503, BUSY)
                assert "\r\nretry-after: 1\r\n" in line.head
                assert "\r\nx-content-type-options: nosniff\r\n" in line.head
                assert "\r\ncontent-type: application/json\r\n" in line.head
                line.send(b'"b"}'[:4])  # what is left of the body belongs to the request that was refused
            line.send(b"GET /api/open HTTP/1.1\r\nhost: here\r\n\r\n")
            assert await line.answer() == (200, b"{}")
        line.send(b"POST /api/held HTTP/1.1\r\nhost: here\r\n\r\n")
        assert await line.answer() == (200, b"")


async def test_answers_keep_the_order_of_the_requests_on_a_connection(place: Place) -> None:
    async with place.connected() as line, place.filled():
        held, unlocked = (
            b"POST /api/held HTTP/1.1\r\nhost: here\r\n\r\n",
            b"GET /api/open HTTP/1.1\r\nhost: here\r\n\r\n",
        )
        line.send(held + unlocked + held + held + unlocked)
        assert [(await line.answer())[0] for _ in range(5)] == [503, 200, 503, 503, 200]


@pytest.mark.parametrize(
    ("request_line", "headers", "closes"),
    [
        (b"POST /api/held HTTP/1.1", b"connection: close\r\n", True),
        (b"POST /api/held HTTP/1.0", b"", True),
        (b"POST /api/held HTTP/1.1", b"expect: 100-continue\r\ncontent-length: 5\r\n", False),
        (b"POST /api/held HTTP/1.1", b"upgrade: h2c\r\nconnection: upgrade\r\n", False),
        (b"POST /api/%68eld HTTP/1.1", b"", False),
    ],
)
async def test_unusual_requests_are_refused_as_well(
    place: Place, request_line: bytes, headers: bytes, closes: bool
) -> None:
    async with place.connected() as line, place.filled():
        line.send(request_line + b"\r\nhost: here\r\n" + headers + b"\r\n")
        status, body = await line.answer()
        assert (status, body[: len(BUSY)]) == (503, BUSY)
        assert not closes or await line.is_closed()


async def test_refused_requests_are_counted_with_the_others(place: Place) -> None:
    async with place.connected() as line, place.filled():
        for _ in range(3):
            line.send(b"POST /api/held HTTP/1.1\r\nhost: here\r\n\r\n")
            await line.answer()
        shown = (await place.app.metrics().text()).decode()
        assert 'admitone_request_seconds_count{method="POST",route="/api/held",status="503"} 3' in shown


async def test_a_refused_connection_that_stays_silent_is_closed(place: Place) -> None:
    async with place.connected() as line, place.filled():
        line.send(b"POST /api/held HTTP/1.1\r\nhost: here\r\n\r\n")
        assert (await line.answer())[0] == 503
        assert await line.is_closed()
