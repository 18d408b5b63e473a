"""Sharing a reading: one for all who ask meanwhile, and never one that began before the question."""

import asyncio

import pytest


class Board:
    """Something to read that changes, and that says how often it was read."""

    def __init__(self) -> None:
        self.text = "first"
        self.readings = 0
        self.may_go_on = asyncio.Event()

    async def read(self, ask: str) -> str:
        self.readings += 1
        seen = self.text
        await self.may_go_on.wait()
        return f"{ask}: {seen}"


async def ask(shared: SingleFlight[str, str], what: str) -> "asyncio.Task[str]":
    asked = asyncio.create_task(shared(what))
    await others_turn()
    return asked


async def others_turn() -> None:
    """Let every task that can go on do so."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_those_who_ask_during_a_reading_share_the_next_one() -> None:
    board = Board()
    shared = SingleFlight(board.read)
    first = await ask(shared, "board")
    board.text = "second"
    later = [await ask(shared, "board") for _ in range(50)]
    board.may_go_on.set()
    assert await first == "board: first"
    assert set(await asyncio.gather(*later)) == {"board: second"}
    assert board.readings == 2


async def test_different_questions_wait_for_nobody() -> None:
    board = Board()
    shared = SingleFlight(board.read)
    asked = [await ask(shared, what) for what in ("a", "b", "c")]
    assert board.readings == 3
    board.may_go_on.set()
    assert await asyncio.gather(*asked) == ["a: first", "b: first", "c: first"]


async def test_a_failure_reaches_those_it_belongs_to_and_the_next_reading_is_tried() -> None:
    attempts = 0

    async def read(what: str) -> str:
        nonlocal attempts
        attempts += 1
        await others_turn()
        if attempts == 1:
            raise LookupError(what)
        return what

    shared = SingleFlight(read)
    first = await ask(shared, "a")
    second = asyncio.create_task(shared("a"))
    with pytest.raises(LookupError):
        await first
    assert await second == "a"
    assert await shared("a") == "a"


async def test_somebody_who_goes_away_takes_nobodys_answer_along() -> None:
    board = Board()
    shared = SingleFlight(board.read)
    gone, stays = await ask(shared, "a"), await ask(shared, "a")
    gone.cancel()
    board.may_go_on.set()
    assert await stays == "a: first"
    with pytest.raises(asyncio.CancelledError):
        await gone
