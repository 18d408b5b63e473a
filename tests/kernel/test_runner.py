"""How a program that is being started is told to stop, and how its jobs are kept going."""

import asyncio
import os
import signal

import pytest

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel import runner
from admitone.kernel.errors import Unavailable
from admitone.kernel.http.server import cancel_on_signals
from admitone.kernel.running import RunningService
from admitone.kernel.service import Service
from tests.engines import Databases
from tests.support import StartNats, running_app


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_is_not_forgotten_by_a_library_that_swallows_the_cancellation(number: signal.Signals) -> None:
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


async def test_a_job_that_finds_no_database_waits_for_it_and_one_that_fails_is_an_error(
    databases: Databases, start_nats: StartNats, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "_RESTART_JOB_SECONDS", 0.01)
    errors = iter([Unavailable(), ConnectionError("gone"), ValueError("a bug")])
    works = asyncio.Event()

    async def job(_running: RunningService[Any]) -> None:
        if (error := next(errors, None)) is not None:
            raise error
        works.set()
        await asyncio.Event().wait()

    async with running_app(databases, start_nats, Service("alpha", jobs=(job,)), AUTH):
        async with asyncio.timeout(30):
            await works.wait()
    told = [record.levelname for record in caplog.records if record.message.startswith("background job")]
    assert told == ["WARNING", "WARNING", "ERROR"]
