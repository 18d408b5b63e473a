"""Ending of asyncio tasks."""

import asyncio
from collections.abc import Sequence
from typing import Final

_FINISH_SECONDS: Final = 5.0
_CANCELLATIONS_MAX: Final = 50


async def end(tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Cancel tasks and wait until they have ended, for at most five seconds.

    One cancellation is not enough: `asyncio.wait_for` of Python 3.11 loses one that arrives together with its result.
    """
    unfinished = set(tasks)
    for _ in range(_CANCELLATIONS_MAX):
        if not unfinished:
            return
        for task in unfinished:
            task.cancel()
        _, unfinished = await asyncio.wait(unfinished, timeout=_FINISH_SECONDS / _CANCELLATIONS_MAX)
