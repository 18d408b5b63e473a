"""Sharing: calls that ask the same while it is being read share one reading.

Nobody gets an answer that is older than the question: whoever asks while a reading is under way waits for the next
one, together with all others who do. So one popular page costs the database the same whether ten people or ten
thousand look at it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A", bound=Hashable)
R = TypeVar("R")


class Shared(Generic[A, R]):
    """Calls `read` for each distinct ask, once at a time; every caller gets what it returns, or what it raises."""

    def __init__(self, read: Callable[[A], Awaitable[R]]) -> None:
        self._read = read
        # Who waits for the next reading, for each ask that is being read.
        self._waiting: dict[A, list[asyncio.Future[R]]] = {}
        self._readings: set[asyncio.Task[None]] = set()

    async def __call__(self, ask: A) -> R:
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        if ask in self._waiting:
            self._waiting[ask].append(answer)
        else:
            self._waiting[ask] = []
            reading = asyncio.create_task(self._read_for(ask, [answer]))
            self._readings.add(reading)
            reading.add_done_callback(self._readings.discard)
        return await answer

    async def _read_for(self, ask: A, callers: Sequence["asyncio.Future[R]"]) -> None:
        while callers:
            try:
                found = await self._read(ask)
            except Exception as error:  # noqa: BLE001 – whatever failed is raised where it was asked
                for each in callers:
                    if not each.done():
                        each.set_exception(error)
            else:
                for each in callers:
                    if not each.done():
                        each.set_result(found)
            callers, self._waiting[ask] = self._waiting[ask], []
        del self._waiting[ask]
