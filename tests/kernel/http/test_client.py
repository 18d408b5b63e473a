"""The transport of HTTP clients on uvloop, as services run it: a server that dies is unreachable, not a bug."""

import asyncio
import socket

import httpx
import uvloop

from admitone.kernel.http.client import Transport

TURNS_MAX = 30


def test_a_connection_that_breaks_while_it_opens_is_a_transport_error() -> None:
    """The server closes after some turns of the event loop, each number of turns once."""

    async def outcome_after(turns: int) -> type[object]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
            async with Transport(trust_env=False) as transport:
                request = asyncio.create_task(transport.handle_async_request(httpx.Request("GET", url)))
                for _ in range(turns):
                    await asyncio.wait({request}, timeout=0)
                listening.close()
                await asyncio.wait({request})
        error = request.exception()
        assert isinstance(error, httpx.TransportError)
        return type(error.__cause__)

    async def all_outcomes() -> set[type[object]]:
        return {await outcome_after(turns) for turns in range(TURNS_MAX)}

    assert AttributeError in uvloop.run(all_outcomes()), "the bug in anyio is fixed: this transport can go"
