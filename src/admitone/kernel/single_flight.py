"""Single-flight: concurrent reads of the same key share one.

No caller gets a result older than its call: calls that arrive during a read share the next one. A popular page costs
the database the same for ten readers as for ten thousand.
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
        # For each key that is being read, the callers of the next read.
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
