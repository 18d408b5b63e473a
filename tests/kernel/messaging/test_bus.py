"""The connection to the bus."""

import asyncio
from contextlib import suppress

import pytest

from admitone.kernel.messaging.bus import Bus
from admitone.local.server import LOOPBACK

_INFO = b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576,"headers":true}\r\n'


@pytest.mark.parametrize(
    "greeting", [b"", b"INFO {", _INFO], ids=["sends nothing", "sends half a line", "sends INFO and no PONG"]
)
async def test_closing_while_connecting_leaves_no_socket_open(greeting: bytes) -> None:
    accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    closed = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        if greeting == _INFO:
            await reader.readuntil(b"PING\r\n")
        accepted.set_result(None)
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        closed.set()

    server = await asyncio.start_server(greet, LOOPBACK, 0)
    async with server:
        bus = Bus("alpha")
        bus.start(f"nats://{LOOPBACK}:{server.sockets[0].getsockname()[1]}")
        await accepted
        await bus.close()
        async with asyncio.timeout(10):
            await closed.wait()


async def test_a_bus_that_never_began_to_connect_can_be_closed() -> None:
    bus = Bus("alpha")
    bus.start(f"nats://{LOOPBACK}:1")
    await bus.close()
    assert not bus.is_connected
