"""Asking once for many: requests that arrive while an answer is being fetched share the next one.

Nobody gets an answer that was fetched before they asked, so nothing is ever stale; and however many ask at once, a
question is on its way at most once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Shared(Generic[K, V]):
    """Calls `fetch` for each question, at most once at a time per question."""

    def __init__(self, fetch: Callable[[K], Awaitable[V]]) -> None:
        self._fetch = fetch
        self._under_way: dict[K, asyncio.Task[V]] = {}
        self._next: dict[K, asyncio.Task[V]] = {}

    async def __call__(self, question: K) -> V:
        """Return an answer that was asked for after this call; raises what `fetch` raises."""
        task = self._next.get(question)
        if task is None:
            task = self._next[question] = asyncio.create_task(self._ask(question))
        # One impatient caller must not take the answer away from the others.
        return await asyncio.shield(task)

    async def _ask(self, question: K) -> V:
        before = self._under_way.get(question)
        if before is not None:
            await asyncio.wait({before})
        # Whoever asks from here on might want what changes from here on: they wait for the next answer.
        task = self._under_way[question] = self._next.pop(question)
        try:
            return await self._fetch(question)
        finally:
            if self._under_way.get(question) is task:
                del self._under_way[question]
