"""The virtual loop: its time moves only when nothing else is left to do."""

import pytest

from proof.simulation.loop import Stuck, VirtualLoop


def test_timers_fire_in_order_without_waiting() -> None:
    loop = VirtualLoop()
    fired: list[float] = []

    async def wait_for_the_last() -> None:
        last = loop.create_future()
        for seconds in (7200.0, 0.5, 3600.0):
            loop.call_later(seconds, lambda: fired.append(loop.time()))
        loop.call_later(7201.0, last.set_result, None)
        await last

    loop.run_until_complete(wait_for_the_last())
    loop.close()
    assert fired == pytest.approx([0.5, 3600, 7200])


def test_waiting_for_what_will_never_happen_is_noticed() -> None:
    loop = VirtualLoop()
    never = loop.create_future()
    with pytest.raises(Stuck):
        loop.run_until_complete(never)
    loop.close()
