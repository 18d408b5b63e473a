"""A load generator in a process of its own: many keep-alive connections, each sending its next request at once."""

import asyncio
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection
from typing import Final, cast

import uvloop


@dataclass
class Measured:
    """What a burst of requests cost: latencies in milliseconds by status, the whole duration in seconds.

    `began_at` is when the first request went out, in seconds since the epoch: the generator's own start is not ours.
    `last_seconds` is how long after that the last answer of each status came.
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
        """Return the latency that this share of the answers (with one of these statuses) was not slower than."""
        ordered = sorted(chain.from_iterable(self.latencies_ms.get(each, ()) for each in statuses or self.latencies_ms))
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def request(
    method: str, path: str, *, token: str | None = None, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Return one HTTP/1.1 request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench"]
    if token:
        lines.append(f"Cookie: session={token}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


_HELLO: Final = request("GET", "/health/live")


class _Connection(asyncio.Protocol):
    def __init__(self, run: "_Run") -> None:
        self._run = run
        self._received = b""
        self._began = 0.0
        self._whole: int | None = None
        self._accepted: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    async def accepted(self) -> None:
        """Wait until the server has taken this connection: the kernel alone lets anybody connect and send."""
        self._accepted = asyncio.get_running_loop().create_future()
        self._send(_HELLO)
        await self._accepted
        self._accepted = None

    def send_next(self) -> None:
        wanted = next(self._run.requests, None)
        if wanted is None or time.perf_counter() >= self._run.ends:
            self._transport.close()
            return
        early = self._run.next_turn() - time.perf_counter()
        if early > 0:
            asyncio.get_running_loop().call_later(early, self._send, wanted)
        else:
            self._send(wanted)

    def _send(self, wanted: bytes) -> None:
        self._began = time.perf_counter()
        self._transport.write(wanted)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        if self._whole is None:
            head = self._received.find(b"\r\n\r\n")
            if head < 0:
                return
            lower = self._received[:head].lower()
            at = lower.find(b"content-length:")
            length = int(lower[at + 15 : at + 30].split(b"\r", 1)[0]) if at >= 0 else 0
            self._whole = head + 4 + length
            self._head = head + 4
        if len(self._received) < self._whole:
            return
        if self._accepted is not None:
            self._received, self._whole = b"", None
            self._accepted.set_result(None)
            return
        measured = self._run.measured
        status, now = int(self._received[9:12]), time.perf_counter()
        measured.latencies_ms.setdefault(status, []).append((now - self._began) * 1000)
        measured.last_seconds[status] = now - self._run.began
        if self._run.keep_bodies:
            measured.bodies.append(self._received[self._head :])
        self._received, self._whole = b"", None
        self.send_next()

    def connection_lost(self, _error: Exception | None) -> None:
        self._run.connection_done()


class _Run:
    def __init__(
        self, requests: Iterator[bytes], seconds_max: float, *, keep_bodies: bool, pace_per_second: float
    ) -> None:
        self.requests = requests
        self.keep_bodies = keep_bodies
        self.seconds_max = seconds_max
        self.began = 0.0
        self.ends = float("inf")
        self._pace = pace_per_second
        self._turn = 0.0
        self.measured = Measured()
        self._open = 0
        self._done = asyncio.Event()

    async def all(self, host: str, port: int, connections: int) -> Measured:
        loop = asyncio.get_running_loop()
        made = await asyncio.gather(
            *(loop.create_connection(lambda: _Connection(self), host, port) for _ in range(connections))
        )
        await asyncio.gather(*(connection.accepted() for _, connection in made))
        self._open = connections
        self.began = time.perf_counter()
        self.measured.began_at = time.time()
        self.ends = self.began + self.seconds_max
        for _, connection in made:
            connection.send_next()
        await self._done.wait()
        self.measured.seconds = time.perf_counter() - self.began
        return self.measured

    def next_turn(self) -> float:
        """Return when the next request is due; at once where no pace is kept."""
        if self._pace:
            self._turn = (self._turn or time.perf_counter()) + 1 / self._pace
        return self._turn

    def connection_done(self) -> None:
        self._open -= 1
        if self._open <= 0:
            self._done.set()


def _child(
    pipe: Connection,
    host: str,
    port: int,
    connections: int,
    requests: Sequence[bytes],
    seconds: float,
    *,
    repeat: bool,
    keep_bodies: bool,
    pace_per_second: float,
) -> None:
    def forever() -> Iterator[bytes]:
        while True:
            yield from requests

    wanted = forever() if repeat else iter(requests)
    run_ = _Run(wanted, seconds, keep_bodies=keep_bodies, pace_per_second=pace_per_second)
    pipe.send(uvloop.run(run_.all(host, port, connections)))
    pipe.close()


def run(
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int = 64,
    seconds: float = 60.0,
    repeat: bool = False,
    keep_bodies: bool = False,
    pace_per_second: float = 0.0,
    host: str = "127.0.0.1",
) -> Measured:
    """Send the requests (again and again with `repeat`) until they or the seconds are used up.

    Each connection sends its next request as soon as it has its answer, or when its turn comes with a pace.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(
        target=_child,
        args=(theirs, host, port, connections, requests, seconds),
        kwargs={"repeat": repeat, "keep_bodies": keep_bodies, "pace_per_second": pace_per_second},
    )
    child.start()
    theirs.close()
    try:
        measured = ours.recv()
    finally:
        child.join()
    assert isinstance(measured, Measured)
    return measured
