"""The proxy of `admitone up --processes`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx

from admitone import registry
from admitone.kernel.errors import Unavailable
from admitone.kernel.settings import Settings
from admitone.local.proxy import Proxy
from admitone.local.server import LOOPBACK, free_port


async def test_concurrent_requests_to_a_service_are_limited() -> None:
    """Otherwise a thousand buyers would open a thousand connections, and some would get 503."""
    at_once, most, go = 0, 0, asyncio.Event()
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal at_once, most
        serving.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                at_once += 1
                most = max(most, at_once)
                await go.wait()
                at_once -= 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    port = free_port()
    async with await asyncio.start_server(serve, LOOPBACK, port):
        urls = {"orders": httpx.URL(f"http://{LOOPBACK}:{port}")}
        async with (
            Proxy(registry.named(["orders"]), urls, Settings()) as proxy,
            httpx.AsyncClient(transport=httpx.ASGITransport(app=proxy), base_url="http://127.0.0.1:8000") as crowd,
        ):
            requests = [asyncio.create_task(crowd.get("/api/orders")) for _ in range(200)]
            async with asyncio.timeout(20):
                while at_once < 64:
                    await asyncio.wait(requests, timeout=0.01)
            go.set()
            responses = await asyncio.gather(*requests)
        await asyncio.gather(*(each for each in serving if each is not None))
    assert {each.status_code for each in responses} == {200}
    assert most == 64


async def test_addresses_are_looked_up_for_every_request() -> None:
    """Deployments replace replicas while the proxy runs."""

    class Replaced(dict[str, httpx.URL]):
        def __getitem__(self, service: str) -> httpx.URL:
            raise Unavailable

    async with (
        Proxy(registry.named(["orders"]), Replaced(), Settings()) as proxy,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=proxy), base_url="http://127.0.0.1:8000") as client,
    ):
        assert (await client.get("/api/orders")).status_code == 503


async def test_half_sent_bodies_keep_nobody_from_a_service() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async def half_a_body() -> AsyncIterator[bytes]:
        yield b"{"
        half_sent.release()
        await asyncio.Event().wait()

    half_sent, port = asyncio.Semaphore(0), free_port()
    async with await asyncio.start_server(serve, LOOPBACK, port):
        urls = {"orders": httpx.URL(f"http://{LOOPBACK}:{port}")}
        async with (
            Proxy(registry.named(["orders"]), urls, Settings()) as proxy,
            httpx.AsyncClient(transport=httpx.ASGITransport(app=proxy), base_url="http://127.0.0.1:8000") as crowd,
        ):
            slow = [asyncio.create_task(crowd.post("/api/orders", content=half_a_body())) for _ in range(100)]
            async with asyncio.timeout(20):
                for _ in slow:
                    await half_sent.acquire()
                assert (await crowd.get("/api/orders")).status_code == 200
            for each in slow:
                each.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
