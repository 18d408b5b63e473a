"""What the pages cost: lists of tickets, and a thousand open ones that are notified."""

import asyncio
import statistics
import time
from typing import Final

from admitone.local.server import LOOPBACK
from proof.load.speed import Bench
from proof.load.usage import usage_by_program
from proof.people import Person

BROWSERS: Final = 1000
_ARRIVES_SECONDS_MAX: Final = 20.0
_GZIP: Final = (("Accept", "text/html"), ("Accept-Encoding", "gzip"))


async def pages(bench: Bench) -> None:
    await bench.filler.list_tickets(50)
    async with bench.marketplace.people(1) as [seller]:
        await _open_pages(bench, seller)
        await _lists(bench, seller)


async def _lists(bench: Bench, seller: Person) -> None:
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
    """Hold a thousand live connections, and notify all of them of one ticket, ten times."""
    before_mb, began = usage_by_program(bench.marketplace.pid)["admitone"].memory_mb, time.monotonic()
    pages = await asyncio.gather(*(_open_page(bench.marketplace.port) for _ in range(BROWSERS)))
    opened_seconds = time.monotonic() - began
    await asyncio.sleep(1)
    each_kb = (usage_by_program(bench.marketplace.pid)["admitone"].memory_mb - before_mb) * 1024 / BROWSERS
    bench.report.add("live connections", held=float(BROWSERS), opened_in_s=opened_seconds, memory_kb_each=each_kb)
    latest_ms, median_ms = [], []
    for number in range(10):
        title = f"Broadcast {number}"
        arrivals = [asyncio.create_task(_arrival(reader, title.encode())) for reader, _ in pages]
        began = time.monotonic()
        await seller.list_ticket(title)
        late_ms = [(at - began) * 1000 for at in await asyncio.gather(*arrivals)]
        latest_ms.append(max(late_ms))
        median_ms.append(statistics.median(late_ms))
    for _, writer in pages:
        writer.close()
    # From the seller's request to the last browser: commit, relay, bus and all.
    bench.report.add("broadcast to all, ten times", median_ms=statistics.median(median_ms), last_ms=max(latest_ms))


async def _open_page(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(b"GET /live HTTP/1.1\r\nHost: load\r\nAccept: text/event-stream\r\n\r\n")
    await _arrival(reader, b"event: reset")
    return reader, writer


async def _arrival(reader: asyncio.StreamReader, text: bytes) -> float:
    """Return when a text arrives; fails if that takes too long or the connection is lost."""
    async with asyncio.timeout(_ARRIVES_SECONDS_MAX):
        received = b""
        while text not in received:
            data = await reader.read(65_536)
            assert data, "a live connection was lost"
            received += data
        return time.monotonic()
