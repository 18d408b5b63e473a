"""The virtual loop: its time moves only when nothing else is left to do."""

import asyncio
import time

import pytest

from proof.simulation.loop import Stuck, VirtualLoop


def test_hours_pass_at_once_and_in_order() -> None:
    loop = VirtualLoop()
    woken = []

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append(loop.time())

    async def sleep_all() -> None:
        await asyncio.gather(sleep(7200), sleep(0.5), sleep(3600))

    began = time.monotonic()
    loop.run_until_complete(sleep_all())
    loop.close()
    assert woken == pytest.approx([0.5, 3600, 7200])
    assert time.monotonic() - began < 5


def test_waiting_for_what_will_never_happen_is_noticed() -> None:
    loop = VirtualLoop()
    never = loop.create_future()
    with pytest.raises(Stuck):
        loop.run_until_complete(never)
    loop.close()
