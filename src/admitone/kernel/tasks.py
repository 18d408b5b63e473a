"""Ending of asyncio tasks."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from admitone.kernel import clock

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


async def finish(task: "asyncio.Task[None]", seconds: float) -> None:
    """Wait for a task; if this is cancelled meanwhile, even repeatedly, let the task finish first for so long."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        deadline = clock.monotonic_seconds() + seconds
        while not task.done() and (left := deadline - clock.monotonic_seconds()) > 0:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task}, timeout=left)
        task.cancel()
        raise
