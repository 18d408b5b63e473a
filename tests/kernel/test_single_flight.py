"""Single-flight: concurrent callers share a read, and none gets a read that began before its call."""

import asyncio

import pytest

from admitone.kernel.single_flight import SingleFlight


class Board:
    """A changing text whose reads are counted and can be held up."""

    def __init__(self) -> None:
        self.text = "first"
        self.reads = 0
        self.may_finish = asyncio.Event()

    async def read(self, key: str) -> str:
        self.reads += 1
        seen = self.text
        await self.may_finish.wait()
        return f"{key}: {seen}"


async def started(flight: SingleFlight[str, str], key: str) -> "asyncio.Task[str]":
    """Start a call and let it reach the read."""
    call = asyncio.create_task(flight(key))
    await let_others_run()
    return call


async def let_others_run() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_calls_during_a_read_share_the_next_one() -> None:
    board = Board()
    flight = SingleFlight(board.read)
    first = await started(flight, "board")
    board.text = "second"
    later = [await started(flight, "board") for _ in range(50)]
    board.may_finish.set()
    assert await first == "board: first"
    assert set(await asyncio.gather(*later)) == {"board: second"}
    assert board.reads == 2


async def test_reads_of_different_keys_do_not_wait_for_each_other() -> None:
    board = Board()
    flight = SingleFlight(board.read)
    calls = [await started(flight, key) for key in ("a", "b", "c")]
    assert board.reads == 3
    board.may_finish.set()
    assert await asyncio.gather(*calls) == ["a: first", "b: first", "c: first"]


async def test_a_failed_read_is_raised_to_its_callers_and_the_next_read_is_tried() -> None:
    attempts = 0

    async def read(key: str) -> str:
        nonlocal attempts
        attempts += 1
        await let_others_run()
        if attempts == 1:
            raise LookupError(key)
        return key

    flight = SingleFlight(read)
    first = await started(flight, "a")
    second = asyncio.create_task(flight("a"))
    with pytest.raises(LookupError):
        await first
    assert await second == "a"
    assert await flight("a") == "a"


async def test_a_cancelled_caller_does_not_cancel_the_read_of_the_others() -> None:
    board = Board()
    flight = SingleFlight(board.read)
    cancelled, stays = await started(flight, "a"), await started(flight, "a")
    cancelled.cancel()
    board.may_finish.set()
    assert await stays == "a: first"
    with pytest.raises(asyncio.CancelledError):
        await cancelled
