"""The load generator: what it sends, and what it measures of the responses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proof.load.generator import Measured, request, send

MADE = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"


@asynccontextmanager
async def server() -> AsyncIterator[int]:
    """Run a server that responds 201 to everything; yield its port."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(MADE)
        except asyncio.IncompleteReadError:
            writer.close()

    listening = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


def test_a_request_has_its_session_and_its_body() -> None:
    assert request("POST", "/api/orders", token="t", body=b"{}", headers=[("If-Match", '"1"')]) == (
        b"POST /api/orders HTTP/1.1\r\nHost: load\r\nCookie: session=t\r\nContent-Type: application/json\r\n"
        b'Content-Length: 2\r\nIf-Match: "1"\r\n\r\n{}'
    )


async def test_every_request_is_sent_once_and_measured() -> None:
    async with server() as port:
        run = await asyncio.to_thread(send, port, [request("GET", "/")] * 50, connections=4, keep_bodies=True)
    assert run.statuses == {201: 50}
    assert run.bodies == [b"{}"] * 50
    assert run.per_second > 0


async def test_requests_at_a_pace_take_their_time() -> None:
    async with server() as port:
        run = await asyncio.to_thread(send, port, [request("GET", "/")] * 10, connections=4, pace_per_second=100)
    assert run.seconds >= 0.08


def test_quantiles_are_of_the_given_statuses() -> None:
    measured = Measured(seconds=2.0, latencies_ms={200: [1.0, 2.0, 3.0, 4.0], 503: [100.0]})
    assert measured.quantile_ms(0.5) == pytest.approx(3.0)
    assert measured.quantile_ms(0.99, 503) == pytest.approx(100.0)
    assert measured.quantile_ms(0.5, 404) == 0.0
    assert measured.per_second == pytest.approx(2.5)
