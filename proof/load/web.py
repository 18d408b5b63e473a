"""`python -m proof.load.web`: what the first page costs, how fast lists are made, what a thousand open pages cost."""

import argparse
import asyncio
import json
import multiprocessing
import re
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import httpx
import uvloop

from proof.load import generator as load
from proof.load.__main__ import CLIENTS
from proof.load.generator import request
from proof.load.report import Report
from proof.load.world import World, running_world

BROWSERS: Final = 1000
_GZIP: Final = (("Accept", "text/html"), ("Accept-Encoding", "gzip"))


async def first_page(world: World, report: Report) -> None:
    """Fetch what a browser fetches to show the list of 50: its bytes on the wire, its requests, the server's time."""
    origin = f"http://127.0.0.1:{world.port}"
    async with httpx.AsyncClient(base_url=origin, headers={"accept-encoding": "gzip"}) as client:
        fetched: dict[str, int] = {}

        async def fetch(path: str) -> str:
            async with client.stream("GET", path) as answer:
                raw = b"".join([part async for part in answer.aiter_raw()])
                head = sum(len(name) + len(value) + 4 for name, value in answer.headers.raw) + 19
                fetched[path] = len(raw) + head
            return (await client.get(path)).text

        html = await fetch("/")
        assert html.count("<article") == 50
        waiting = re.findall(r'(?:href|src)="(/static/[^"]+)"', html)
        while waiting:
            path = waiting.pop(0)
            if path not in fetched:
                text = await fetch(path)
                folder = path.rpartition("/")[0]
                waiting += [f"{folder}/{name}" for name in re.findall(r'from "\./([^"]+)"', text)]
    needed = sum(size for path, size in fetched.items() if path == "/" or path.endswith(".css"))
    report.add("first page, HTML and CSS", "bytes on the wire", html=float(fetched["/"]), together=float(needed))
    report.add("first page, everything", all_bytes=float(sum(fetched.values())), requests=float(len(fetched)))
    once = load.run(world.port, [request("GET", "/", headers=_GZIP)] * 300, connections=1)
    report.measured("first page, one reader", once)


async def lists(world: World, report: Report, seconds: int) -> None:
    token = world.token()
    for name, wanted in (
        ("list of 50, HTML", request("GET", "/")),
        ("list of 50, HTML, compressed", request("GET", "/", headers=_GZIP)),
        ("list of 50, HTML, signed in", request("GET", "/", token=token, headers=_GZIP)),
    ):
        run = load.run(world.port, [wanted], connections=CLIENTS, seconds=seconds, repeat=True)
        report.measured(name, run)
    changing = asyncio.create_task(_keep_listing(world))
    run = await asyncio.to_thread(
        load.run, world.port, [request("GET", "/", headers=_GZIP)], connections=CLIENTS, seconds=seconds, repeat=True
    )
    changing.cancel()
    report.measured("list of 50, HTML, ever changing", run)


async def _keep_listing(world: World) -> None:
    """List twenty tickets a second, so that no list is like the one before."""
    async with _seller(world) as client:
        while True:
            await client.post("/api/tickets", json={"title": "Something new", "price": 20})
            await asyncio.sleep(0.05)


def _seller(world: World) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{world.port}", headers={"cookie": f"session={world.token()}"})


async def open_pages(world: World, report: Report) -> None:
    """Hold a thousand live connections, and tell all of them of one ticket."""
    before = world.memory_mb()["admitone"]
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_listen, args=(theirs, world.port, BROWSERS))
    child.start()
    took = await asyncio.to_thread(ours.recv)
    await asyncio.sleep(1)
    each_kb = (world.memory_mb()["admitone"] - before) * 1024 / BROWSERS
    report.add("live connections", held=float(BROWSERS), opened_in_s=took, memory_kb_each=each_kb)
    latest, middle = [], []
    async with _seller(world) as client:
        for number in range(10):
            title = f"Broadcast {number}"
            ours.send(title)
            began = time.time()
            (await client.post("/api/tickets", json={"title": title, "price": 20})).raise_for_status()
            arrived = await asyncio.to_thread(ours.recv)
            assert len(arrived) == BROWSERS
            latest.append((max(arrived) - began) * 1000)
            middle.append((statistics.median(arrived) - began) * 1000)
    ours.send(None)
    child.join()
    # From the seller's request to the last browser: commit, relay, bus and all.
    report.add("broadcast to all, ten times", median_ms=statistics.median(middle), last_ms=max(latest))


class _Page(asyncio.Protocol):
    """One open page: notes when a text arrives."""

    def __init__(self, pages: "_Pages") -> None:
        self._pages = pages
        self._is_open = False

    def connection_made(self, transport: Any) -> None:
        transport.write(b"GET /live HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n")

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
                *(
                    loop.create_connection(lambda: _Page(self), "127.0.0.1", port)
                    for _ in range(min(100, count - first))
                )
            )
        while self.opened < count:
            await asyncio.sleep(0.01)
        pipe.send(time.perf_counter() - began)
        while (title := await asyncio.to_thread(pipe.recv)) is not None:
            self.arrived = []
            self.wanted = title.encode()
            ends = time.monotonic() + 20
            while len(self.arrived) < count and time.monotonic() < ends:
                await asyncio.sleep(0.005)
            assert self.lost == 0, f"{self.lost} connections were lost"
            pipe.send(self.arrived)


def _listen(pipe: "Connection[Any, Any]", port: int, count: int) -> None:
    uvloop.run(_Pages().listen(pipe, port, count))


async def measure(world: World, report: Report, seconds: int) -> None:
    await world.fill(50)
    await first_page(world, report)
    await open_pages(world, report)
    await lists(world, report, seconds)


def main() -> None:
    reader = argparse.ArgumentParser(prog="python -m proof.load.web", description=__doc__)
    reader.add_argument("--seconds", type=int, default=5, help="how long each load lasts")
    reader.add_argument("--json", type=Path, help="write the figures to this file")
    chosen = reader.parse_args()
    report = Report()
    with running_world() as world:
        asyncio.run(measure(world, report, chosen.seconds))
    if chosen.json:
        chosen.json.write_text(json.dumps(report.figures, indent=1))


if __name__ == "__main__":
    main()
