"""Asking once for many."""

import asyncio

import pytest

from admitone.web.shared import Shared


class Source:
    """Answers with how often it was asked; each answer waits until it is let go."""

    def __init__(self) -> None:
        self.asked = 0
        self.gate = asyncio.Event()

    async def __call__(self, question: str) -> str:
        self.asked += 1
        answer = f"{question} {self.asked}"
        await self.gate.wait()
        return answer


async def test_requests_that_wait_share_one_answer_and_never_one_begun_before_them() -> None:
    source = Source()
    shared: Shared[str, str] = Shared(source)
    first = asyncio.create_task(shared("list"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.create_task(shared("list")) for _ in range(50)]
    await asyncio.sleep(0)
    source.gate.set()
    assert await first == "list 1"
    assert set(await asyncio.gather(*later)) == {"list 2"}
    assert source.asked == 2


async def test_different_questions_are_asked_apart() -> None:
    source = Source()
    source.gate.set()
    shared: Shared[str, str] = Shared(source)
    assert set(await asyncio.gather(shared("a"), shared("b"))) == {"a 1", "b 2"}


async def test_a_failure_reaches_everyone_who_waited_and_nobody_after() -> None:
    async def fail_once(question: str) -> str:
        calls.append(question)
        if len(calls) == 1:
            raise LookupError
        return "found"

    calls: list[str] = []
    shared: Shared[str, str] = Shared(fail_once)
    outcomes = await asyncio.gather(shared("a"), shared("a"), return_exceptions=True)
    assert [type(each) for each in outcomes] == [LookupError, LookupError]
    assert await shared("a") == "found"


async def test_somebody_who_gives_up_takes_nothing_from_the_others() -> None:
    source = Source()
    shared: Shared[str, str] = Shared(source)
    impatient = asyncio.create_task(shared("a"))
    patient = asyncio.create_task(shared("a"))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    source.gate.set()
    assert await patient == "a 1"
