"""The general HTTP client on uvloop, as services run it: a server that dies is a server that cannot be reached."""

import asyncio
import socket

import httpx
import uvloop

from admitone.kernel.http.client import Transport

TURNS_MAX = 30


def test_a_connection_that_breaks_while_it_is_made_is_a_transport_error() -> None:
    """A listening process is killed some turns of the loop after the client began to connect, each number once."""

    async def ask_one_that_dies_after(turns: int) -> type[object]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
            async with Transport(trust_env=False) as transport:
                asking = asyncio.create_task(transport.handle_async_request(httpx.Request("GET", url)))
                for _ in range(turns):
                    await asyncio.wait({asking}, timeout=0)
                listening.close()
                await asyncio.wait({asking})
        error = asking.exception()
        assert isinstance(error, httpx.TransportError)
        return type(error.__cause__)

    async def ask_all() -> set[type[object]]:
        return {await ask_one_that_dies_after(turns) for turns in range(TURNS_MAX)}

    assert AttributeError in uvloop.run(ask_all()), "the library has learnt it: this transport is not needed any more"
