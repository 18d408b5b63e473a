"""A connection to the bus ends when it is told to, however far it has come."""

import asyncio
from contextlib import suppress

import pytest

from admitone.kernel.messaging.bus import Bus
from admitone.local.server import LOOPBACK

_INFO = b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576,"headers":true}\r\n'


@pytest.mark.parametrize("greeting", [b"", b"INFO {", _INFO], ids=["silent", "stammers", "greets and falls silent"])
async def test_closing_in_the_middle_of_connecting_leaves_nothing_open(greeting: bytes) -> None:
    came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ended = asyncio.Event()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        if greeting == _INFO:
            await reader.readuntil(b"PING\r\n")
        came.set_result(None)
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        ended.set()

    server = await asyncio.start_server(meet, LOOPBACK, 0)
    async with server:
        bus = Bus("alpha")
        bus.start(f"nats://{LOOPBACK}:{server.sockets[0].getsockname()[1]}")
        await came
        await bus.close()
        async with asyncio.timeout(10):
            await ended.wait()
