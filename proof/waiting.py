"""Waiting for a condition, for a limited time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class NotInTime(AssertionError):
    """What was waited for did not happen in time"""


async def until(read: Callable[[], Awaitable[T]], what: str, seconds_max: float, *, again_seconds: float = 0.05) -> T:
    """Read again and again until the result is true, and return it. Raises NotInTime."""
    deadline = time.monotonic() + seconds_max
    while not (found := await read()):
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {seconds_max:g} s: {what}")
        await asyncio.sleep(again_seconds)
    return found
