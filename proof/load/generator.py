"""A load generator in a process of its own: many keep-alive connections, each sending its next request at once."""

import asyncio
import itertools
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, cast

import uvloop

from admitone.local.server import LOOPBACK


def quantile(values: Iterable[float], share: float) -> float:
    """Return the value that this share of the values does not exceed; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


@dataclass
class Measured:
    """What a burst of requests took: latencies in milliseconds by status, the whole duration in seconds.

    `began_at` is when the first request was sent, in seconds since the epoch. `last_seconds` is how long after that the
    last response of each status arrived.
    """

    seconds: float = 0.0
    began_at: float = 0.0
    last_seconds: dict[int, float] = field(default_factory=dict)
    latencies_ms: dict[int, list[float]] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[int]:
        return Counter({status: len(each) for status, each in self.latencies_ms.items()})

    @property
    def per_second(self) -> float:
        return self.statuses.total() / self.seconds if self.seconds else 0.0

    def quantile_ms(self, share: float, *statuses: int) -> float:
        """Return the latency that this share of the responses (with one of these statuses) did not exceed."""
        return quantile(
            chain.from_iterable(self.latencies_ms.get(each, ()) for each in statuses or self.latencies_ms), share
        )


def request(
    method: str, path: str, *, token: str | None = None, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Return one HTTP/1.1 request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: load"]
    if token:
        lines.append(f"Cookie: session={token}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


_HELLO: Final = request("GET", "/health/live")


class _Connection(asyncio.Protocol):
    def __init__(self, burst: "_Burst") -> None:
        self._burst = burst
        self._received = b""
        self._began = 0.0
        self._head = 0
        self._end: int | None = None
        self._accepted: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    async def accepted(self) -> None:
        """Wait until the server has accepted this connection: the kernel alone lets anybody connect and send."""
        self._accepted = asyncio.get_running_loop().create_future()
        self._send(_HELLO)
        await self._accepted
        self._accepted = None

    def send_next(self) -> None:
        wanted = next(self._burst.requests, None)
        if wanted is None or time.perf_counter() >= self._burst.ends:
            self._transport.close()
            return
        early_seconds = self._burst.next_turn() - time.perf_counter()
        if early_seconds > 0:
            asyncio.get_running_loop().call_later(early_seconds, self._send, wanted)
        else:
            self._send(wanted)

    def _send(self, wanted: bytes) -> None:
        self._began = time.perf_counter()
        self._transport.write(wanted)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        if self._end is None:
            head = self._received.find(b"\r\n\r\n")
            if head < 0:
                return
            lower = self._received[:head].lower()
            at = lower.find(b"content-length:")
            length = int(lower[at + 15 : at + 30].split(b"\r", 1)[0]) if at >= 0 else 0
            self._head = head + 4
            self._end = self._head + length
        if len(self._received) < self._end:
            return
        received, self._received, self._end = self._received, b"", None
        if self._accepted is not None:
            self._accepted.set_result(None)
            return
        measured = self._burst.measured
        status, now = int(received[9:12]), time.perf_counter()
        measured.latencies_ms.setdefault(status, []).append((now - self._began) * 1000)
        measured.last_seconds[status] = now - self._burst.began
        if self._burst.keep_bodies:
            measured.bodies.append(received[self._head :])
        self.send_next()

    def connection_lost(self, _error: Exception | None) -> None:
        self._burst.connection_done()


class _Burst:
    """Sends requests (again and again with `repeat`) until they or the seconds are used up."""

    def __init__(
        self,
        requests: Sequence[bytes],
        *,
        seconds: float = 60.0,
        repeat: bool = False,
        keep_bodies: bool = False,
        pace_per_second: float = 0.0,
    ) -> None:
        self.requests: Iterator[bytes] = itertools.cycle(requests) if repeat else iter(requests)
        self.keep_bodies = keep_bodies
        self.began = 0.0
        self.ends = float("inf")
        self.measured = Measured()
        self._seconds = seconds
        self._pace_per_second = pace_per_second
        self._turn = 0.0
        self._open = 0
        self._done = asyncio.Event()

    async def send_all(self, port: int, connections: int) -> Measured:
        loop = asyncio.get_running_loop()
        made = await asyncio.gather(
            *(loop.create_connection(lambda: _Connection(self), LOOPBACK, port) for _ in range(connections))
        )
        await asyncio.gather(*(connection.accepted() for _, connection in made))
        self._open = connections
        self.began = time.perf_counter()
        self.measured.began_at = time.time()
        self.ends = self.began + self._seconds
        for _, connection in made:
            connection.send_next()
        await self._done.wait()
        self.measured.seconds = time.perf_counter() - self.began
        return self.measured

    def next_turn(self) -> float:
        """Return when the next request is due; at once without a pace."""
        if self._pace_per_second:
            self._turn = (self._turn or time.perf_counter()) + 1 / self._pace_per_second
        return self._turn

    def connection_done(self) -> None:
        self._open -= 1
        if self._open <= 0:
            self._done.set()


def _measure(port: int, connections: int, requests: Sequence[bytes], options: dict[str, Any]) -> Measured:
    return uvloop.run(_Burst(requests, **options).send_all(port, connections))


def send(port: int, requests: Sequence[bytes], *, connections: int = 64, **options: Any) -> Measured:
    """Send the requests, with the options of `_Burst`.

    Each connection sends its next request as soon as it has a response, or in its turn if there is a pace.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        return child.submit(_measure, port, connections, requests, options).result()
