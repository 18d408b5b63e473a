"""Batching: calls that arrive while others are on their way to the database share the next round trip.

No call waits for a batch to fill: a call is run at once unless two batches are in progress. Under load, a batch is the
calls that arrived since the one before.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from admitone.kernel.database.pool import is_unreachable

A = TypeVar("A")
R = TypeVar("R")

_IN_FLIGHT_MAX: Final = 2
_BATCH_MAX: Final = 64


class Batcher(Generic[A, R]):
    """Calls `run` with one or more arguments and returns to each caller its own result; results keep the order.

    If a batch fails, each of its arguments is run alone, so that one failure does not affect others. If it fails
    because the database is unreachable, it may have been committed: then every caller gets the error.
    """

    def __init__(self, run: Callable[[Sequence[A]], Awaitable[Sequence[R]]]) -> None:
        self._run = run
        self._waiting: deque[tuple[A, asyncio.Future[R]]] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()

    async def __call__(self, argument: A) -> R:
        """Return this argument's result; raises what `run` raises for it alone."""
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((argument, result))
        self._start_batches()
        return await result

    def _start_batches(self) -> None:
        while self._waiting and len(self._in_flight) < _IN_FLIGHT_MAX:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH_MAX))]
            task = asyncio.create_task(self._run_batch(batch))
            self._in_flight.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._start_batches()

    async def _run_batch(self, batch: Sequence[tuple[A, asyncio.Future[R]]]) -> None:
        try:
            results = await self._run([argument for argument, _ in batch])
        except Exception as error:  # noqa: BLE001 – raised to the callers
            if len(batch) == 1 or is_unreachable(error):
                for _, result in batch:
                    if not result.done():
                        result.set_exception(error)
                return
            for each in batch:
                await self._run_batch([each])
            return
        for (_, result), value in zip(batch, results, strict=True):
            if not result.done():
                result.set_result(value)
