"""An event loop with its own time, which moves only when there is nothing left to do, and without any input."""

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any


class Stuck(Exception):
    """Every task waits for something that will never happen"""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs tasks in one thread, in an order that depends on nothing but what they do."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_NoInput(self))

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


class _NoInput(selectors.BaseSelector):
    """A selector without events: where another one waits, the loop's time moves."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self._keys[fileobj] = key = selectors.SelectorKey(fileobj, fileobj, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck
        self._loop.advance(timeout)
        return []
