"""Batching: concurrent calls share statements, and each caller gets its own result or error."""

import asyncio
from collections.abc import Sequence

from admitone.kernel.database.batching import Batcher
from tests.kernel.support import ended


async def test_calls_that_arrive_while_others_are_in_flight_are_one_batch() -> None:
    batches: list[list[int]] = []
    gate = asyncio.Event()

    async def run(arguments: Sequence[int]) -> Sequence[int]:
        batches.append(list(arguments))
        await gate.wait()
        return [each * 10 for each in arguments]

    batcher = Batcher(run)
    calls = [asyncio.create_task(batcher(number)) for number in range(10)]
    await asyncio.sleep(0)  # the first two are in flight
    gate.set()
    assert await asyncio.gather(*calls) == [number * 10 for number in range(10)]
    assert [len(batch) for batch in batches] == [1, 1, 8]


async def test_one_failing_call_affects_no_other_but_an_outage_is_raised_to_all() -> None:
    tried: list[list[str]] = []

    async def run(arguments: Sequence[str]) -> Sequence[str]:
        tried.append(list(arguments))
        await asyncio.sleep(0)
        if "bad" in arguments:
            raise ValueError
        if "lost" in arguments:
            raise ConnectionError
        return arguments

    batcher = Batcher(run)
    first = await asyncio.gather(*(batcher(each) for each in ("a", "b", "c", "bad", "d")), return_exceptions=True)
    assert [repr(each) for each in first] == ["'a'", "'b'", "'c'", "ValueError()", "'d'"]

    tried.clear()
    second = await asyncio.gather(*(batcher(each) for each in ("a", "b", "c", "lost", "d")), return_exceptions=True)
    assert [repr(each) for each in second] == ["'a'", "'b'", *["ConnectionError()"] * 3]
    assert ["c"] not in tried, "a call whose outcome is unknown is not run again"


async def test_a_cancelled_caller_affects_no_other() -> None:
    gate = asyncio.Event()

    async def run(arguments: Sequence[int]) -> Sequence[int]:
        await gate.wait()
        return arguments

    batcher = Batcher(run)
    calls = [asyncio.create_task(batcher(number)) for number in range(6)]
    await asyncio.sleep(0)
    await ended(calls[0])
    await ended(calls[4])
    gate.set()
    assert await asyncio.gather(*(calls[number] for number in (1, 2, 3, 5))) == [1, 2, 3, 5]
