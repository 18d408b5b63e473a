"""Serving: a program can be stopped while it starts."""

import asyncio
import os
import signal

import pytest

from admitone.kernel.http.server import cancel_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_is_noticed_although_a_library_swallows_the_cancellation(number: signal.Signals) -> None:
    stop = asyncio.Event()

    async def starts() -> None:
        cancel_on_signals(stop)
        os.kill(os.getpid(), number)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await stop.wait()

    try:
        await asyncio.wait_for(asyncio.create_task(starts()), timeout=30)
    finally:
        asyncio.get_running_loop().remove_signal_handler(number)
