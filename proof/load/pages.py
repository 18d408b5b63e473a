"""What the pages cost: the first one, lists of tickets, and a thousand open ones that are notified."""

import asyncio
import multiprocessing
import re
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any, Final

import uvloop

from admitone.local.server import LOOPBACK
from proof.clients import http_client
from proof.load.generator import request
from proof.load.speed import Bench
from proof.load.usage import usage_by_program
from proof.people import Person

BROWSERS: Final = 1000
_GZIP: Final = (("Accept", "text/html"), ("Accept-Encoding", "gzip"))


async def pages(bench: Bench) -> None:
    await bench.filler.list_tickets(50)
    await _first_page(bench)
    async with bench.marketplace.people(1) as [seller]:
        await _open_pages(bench, seller)
        await _lists(bench, seller)


async def _first_page(bench: Bench) -> None:
    """Fetch what a browser fetches to show the list of 50: bytes, requests, the server's time."""
    fetched: dict[str, int] = {}
    async with http_client(bench.marketplace.url) as client:

        async def fetch(path: str) -> str:
            async with client.stream("GET", path, headers={"accept-encoding": "gzip"}) as response:
                raw = b"".join([part async for part in response.aiter_raw()])
                head = sum(len(name) + len(value) + 4 for name, value in response.headers.raw) + 19
            fetched[path] = len(raw) + head
            return (await client.get(path)).text

        html = await fetch("/")
        assert html.count("<article") == 50
        waiting = re.findall(r'(?:href|src)="(/static/[^"]+)"', html)
        while waiting:
            path = waiting.pop(0)
            if path not in fetched:
                text = await fetch(path)
                waiting += [f"{path.rpartition('/')[0]}/{name}" for name in re.findall(r'from "\./([^"]+)"', text)]
    needed = sum(size for path, size in fetched.items() if path == "/" or path.endswith(".css"))
    bench.report.add("first page, HTML and CSS, bytes", html=float(fetched["/"]), together=float(needed))
    bench.report.add("first page, everything", all_bytes=float(sum(fetched.values())), requests=float(len(fetched)))
    once = bench.send([request("GET", "/", headers=_GZIP)] * 300, connections=1)
    bench.report.add_measured("first page, one reader", once)


async def _lists(bench: Bench, seller: Person) -> None:
    bench.report.add_measured("list of 50, HTML", bench.read("/"))
    bench.report.add_measured("list of 50, HTML, compressed", bench.read("/", headers=_GZIP))
    bench.report.add_measured("list of 50, HTML, signed in", bench.read("/", bench.tokens(1)[0], _GZIP))

    async def keep_listing() -> None:
        """List twenty tickets a second, so that no list is like the one before."""
        while True:
            await seller.list_ticket("Something new")
            await asyncio.sleep(0.05)

    listing = asyncio.create_task(keep_listing())
    run = await asyncio.to_thread(bench.read, "/", headers=_GZIP)
    listing.cancel()
    bench.report.add_measured("list of 50, HTML, ever changing", run)


async def _open_pages(bench: Bench, seller: Person) -> None:
    """Hold a thousand live connections, and notify all of them of one ticket."""
    before_mb = usage_by_program(bench.marketplace.pid)["admitone"].memory_mb
    context = multiprocessing.get_context("spawn")
    pipe, childs_pipe = context.Pipe()
    child = context.Process(target=_listen, args=(childs_pipe, bench.marketplace.port, BROWSERS))
    child.start()
    opened_seconds = await asyncio.to_thread(pipe.recv)
    await asyncio.sleep(1)
    each_kb = (usage_by_program(bench.marketplace.pid)["admitone"].memory_mb - before_mb) * 1024 / BROWSERS
    bench.report.add("live connections", held=float(BROWSERS), opened_in_s=opened_seconds, memory_kb_each=each_kb)
    latest_ms, median_ms = [], []
    for number in range(10):
        title = f"Broadcast {number}"
        pipe.send(title)
        began = time.time()
        await seller.list_ticket(title)
        arrived = await asyncio.to_thread(pipe.recv)
        assert len(arrived) == BROWSERS
        latest_ms.append((max(arrived) - began) * 1000)
        median_ms.append((statistics.median(arrived) - began) * 1000)
    pipe.send(None)
    child.join()
    # From the seller's request to the last browser: commit, relay, bus and all.
    bench.report.add("broadcast to all, ten times", median_ms=statistics.median(median_ms), last_ms=max(latest_ms))


class _Page(asyncio.Protocol):
    """One open page: notes when a text arrives."""

    def __init__(self, pages: "_Pages") -> None:
        self._pages = pages
        self._is_open = False

    def connection_made(self, transport: Any) -> None:
        transport.write(b"GET /live HTTP/1.1\r\nHost: load\r\nAccept: text/event-stream\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        if not self._is_open and b"event: reset" in data:
            self._is_open = True
            self._pages.opened += 1
        if self._pages.wanted is not None and self._pages.wanted in data:
            self._pages.arrived.append(time.time())

    def connection_lost(self, _error: Exception | None) -> None:
        self._pages.lost += 1


class _Pages:
    """All open pages of the listening process."""

    def __init__(self) -> None:
        self.opened = 0
        self.lost = 0
        self.wanted: bytes | None = None
        self.arrived: list[float] = []

    async def listen(self, pipe: "Connection[Any, Any]", port: int, count: int) -> None:
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        for first in range(0, count, 100):
            await asyncio.gather(
                *(loop.create_connection(lambda: _Page(self), LOOPBACK, port) for _ in range(min(100, count - first)))
            )
        while self.opened < count:
            await asyncio.sleep(0.01)
        pipe.send(time.perf_counter() - began)
        while (title := await asyncio.to_thread(pipe.recv)) is not None:
            self.arrived, self.wanted = [], title.encode()
            deadline = time.monotonic() + 20
            while len(self.arrived) < count and time.monotonic() < deadline:
                await asyncio.sleep(0.005)
            assert self.lost == 0, f"{self.lost} connections were lost"
            pipe.send(self.arrived)


def _listen(pipe: "Connection[Any, Any]", port: int, count: int) -> None:
    uvloop.run(_Pages().listen(pipe, port, count))
