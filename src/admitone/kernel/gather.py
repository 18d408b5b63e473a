"""Gathering: calls that arrive while others are on their way to the database share the next round trip.

Nobody waits for company: an idle gatherer sends a lone call at once. Under load a batch is whatever came in while the
previous one was out.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from admitone.kernel.database import is_away

A = TypeVar("A")
R = TypeVar("R")

_IN_FLIGHT_MAX: Final = 2
_BATCH_MAX: Final = 64


class Gatherer(Generic[A, R]):
    """Calls `run` with one or more asks and gives each caller its own result, in the order of the asks.

    When a batch fails as a whole, each of its asks is run alone, so that one failing ask spoils no other. When it
    fails because the database went away, nobody knows whether it was committed: then every caller is told so.
    """

    def __init__(self, run: Callable[[Sequence[A]], Awaitable[Sequence[R]]]) -> None:
        self._run = run
        self._waiting: deque[tuple[A, asyncio.Future[R]]] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()

    async def __call__(self, ask: A) -> R:
        """Return this ask's result; raises what `run` raises for it alone."""
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, result))
        self._send()
        return await result

    def _send(self) -> None:
        while self._waiting and len(self._in_flight) < _IN_FLIGHT_MAX:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH_MAX))]
            task = asyncio.create_task(self._settle(batch))
            self._in_flight.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._send()

    async def _settle(self, batch: Sequence[tuple[A, asyncio.Future[R]]]) -> None:
        try:
            results = await self._run([ask for ask, _ in batch])
        except Exception as error:  # noqa: BLE001 – whatever failed is raised where it was asked
            if len(batch) == 1 or is_away(error):
                for _, result in batch:
                    if not result.done():
                        result.set_exception(error)
                return
            for each in batch:
                await self._settle([each])
            return
        for (_, result), value in zip(batch, results, strict=True):
            if not result.done():
                result.set_result(value)
