"""A deadline that has passed is signalled until the order is settled."""

import asyncio
from types import SimpleNamespace

import pytest

from admitone.expiration import jobs
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.runner import App
from tests.expiration.support import cancelled, consume, created, deadlines, signals_for
from tests.support import eventually


async def test_g11_a_deadline_is_signalled_once_it_has_passed_and_not_before(app: App) -> None:
    soon, later = created(seconds=0.3), created(seconds=60)
    await consume(app, later, soon)
    await eventually(lambda: signals_for(app, soon), "the signal")
    [row] = await app.running["expiration"].database.fetch("SELECT recorded_at, data FROM outbox")
    assert soon.expires_at <= row["recorded_at"]
    assert await signals_for(app, later) == 0


async def test_g11_a_deadline_that_passed_while_the_service_was_down_is_signalled_at_once(app: App) -> None:
    order = created(seconds=-3600)
    await consume(app, order)
    await eventually(lambda: signals_for(app, order), "the signal")


async def test_g11_the_signal_is_repeated_until_the_order_is_settled(app: App) -> None:
    order = created(seconds=-1)
    await consume(app, order)

    async def is_repeated() -> bool:
        return await signals_for(app, order) >= 2

    await eventually(is_repeated, "a second signal")
    await consume(app, cancelled(order))
    assert await deadlines(app) == 0


async def test_the_job_pauses_while_the_bus_is_away_and_a_deadline_has_passed(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bus, "is_caught_up", False)
    await consume(app, created(seconds=-1))
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        raise asyncio.CancelledError

    monkeypatch.setattr(jobs, "asyncio", SimpleNamespace(sleep=pause))
    with pytest.raises(asyncio.CancelledError):
        await jobs.signal_deadlines(app.running["expiration"])
    assert set(pauses) == {jobs._POLL_SECONDS}
