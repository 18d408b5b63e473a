"""Single-flight: concurrent reads of the same thing share one.

Nobody gets a result that is older than their call: calls during a read wait for the next one, together. So a popular
page costs the database the same whether ten or ten thousand people look at it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class SingleFlight(Generic[K, R]):
    """Calls `read` once at a time for each key; every caller gets what it returns or raises."""

    def __init__(self, read: Callable[[K], Awaitable[R]]) -> None:
        self._read = read
        # The callers who wait for the next read of each key that is being read.
        self._waiting: dict[K, list[asyncio.Future[R]]] = {}
        self._reads: set[asyncio.Task[None]] = set()

    async def __call__(self, key: K) -> R:
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        if key in self._waiting:
            self._waiting[key].append(result)
        else:
            self._waiting[key] = []
            read = asyncio.create_task(self._read_for(key, [result]))
            self._reads.add(read)
            read.add_done_callback(self._reads.discard)
        return await result

    async def _read_for(self, key: K, callers: Sequence["asyncio.Future[R]"]) -> None:
        while callers:
            try:
                found = await self._read(key)
            except Exception as error:  # noqa: BLE001 – raised to the callers
                for each in callers:
                    if not each.done():
                        each.set_exception(error)
            else:
                for each in callers:
                    if not each.done():
                        each.set_result(found)
            callers, self._waiting[key] = self._waiting[key], []
        del self._waiting[key]
