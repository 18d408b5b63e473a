"""Purchases with every kind of end, over the HTTP API: what a history is made of that is worth telling again."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from admitone.invariants import IN_PROGRESS
from admitone.kernel import clock

_DECLINED: Final = "pm_card_chargeDeclined"
_ASKS_BACK: Final = "pm_card_authenticationRequired"
_WORKS: Final = "tok_visa"
_WAITS_SECONDS: Final = 20.0
_LOOKS_AGAIN_SECONDS: Final = 0.05


@dataclass(frozen=True)
class People:
    """Who trades: clients that are signed in."""

    alice: httpx.AsyncClient
    bob: httpx.AsyncClient
    carol: httpx.AsyncClient

    async def lists(self) -> str:
        answer = await self.alice.post("/api/tickets", json={"title": "Fado night", "price": 20})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


async def reserves(buyer: httpx.AsyncClient, ticket: str) -> str:
    """Reserve a ticket, as soon as nobody else holds it any more."""
    until = clock.monotonic_seconds() + _WAITS_SECONDS
    while True:
        answer = await buyer.post("/api/orders", json={"ticketId": ticket})
        if answer.status_code == 201:
            return str(answer.json()["id"])
        assert clock.monotonic_seconds() < until, answer.text
        await asyncio.sleep(_LOOKS_AGAIN_SECONDS)


async def pays(buyer: httpx.AsyncClient, order: str, card: str = _WORKS) -> httpx.Response:
    return await buyer.post("/api/payments", json={"orderId": order, "token": card})


async def cancels(buyer: httpx.AsyncClient, order: str) -> httpx.Response:
    return await buyer.delete(f"/api/orders/{order}")


async def bought(people: People) -> None:
    await pays(people.bob, await reserves(people.bob, await people.lists()))


async def bought_with_the_second_card(people: People) -> None:
    order = await reserves(people.bob, await people.lists())
    await pays(people.bob, order, _DECLINED)
    await pays(people.bob, order)


async def declined_for_good(people: People) -> None:
    order = await reserves(people.bob, await people.lists())
    for _ in range(3):
        await pays(people.bob, order, _DECLINED)


async def cancelled(people: People) -> None:
    await cancels(people.bob, await reserves(people.bob, await people.lists()))


async def left_to_expire(people: People) -> None:
    await reserves(people.bob, await people.lists())


async def left_at_the_bank(people: People) -> None:
    await pays(people.bob, await reserves(people.bob, await people.lists()), _ASKS_BACK)


async def cancelled_at_the_bank(people: People) -> None:
    order = await reserves(people.bob, await people.lists())
    await pays(people.bob, order, _ASKS_BACK)
    await cancels(people.bob, order)


async def paid_and_cancelled_at_once(people: People) -> None:
    order = await reserves(people.bob, await people.lists())
    await asyncio.gather(pays(people.bob, order), cancels(people.bob, order))


async def wanted_by_two(people: People) -> None:
    ticket = await people.lists()
    asked = [(buyer, buyer.post("/api/orders", json={"ticketId": ticket})) for buyer in (people.bob, people.carol)]
    answers = await asyncio.gather(*(each for _, each in asked))
    for (buyer, _), answer in zip(asked, answers, strict=True):
        if answer.status_code == 201:
            await pays(buyer, answer.json()["id"])


async def given_back_and_bought_by_another(people: People) -> None:
    ticket = await people.lists()
    await cancels(people.bob, await reserves(people.bob, ticket))
    await pays(people.carol, await reserves(people.carol, ticket))


async def edited_while_it_is_bought(people: People) -> None:
    ticket = await people.lists()
    edit = people.alice.put(f"/api/tickets/{ticket}", json={"title": "Fado night", "price": 25})
    order, _ = await asyncio.gather(reserves(people.bob, ticket), edit)
    await pays(people.bob, order)


async def edited_and_not_sold(people: People) -> None:
    ticket = await people.lists()
    for price in (30, 35):
        await people.alice.put(f"/api/tickets/{ticket}", json={"title": "Fado night", "price": price})


ENDS: Final[Sequence[Callable[[People], Awaitable[None]]]] = (
    bought,
    bought_with_the_second_card,
    declined_for_good,
    cancelled,
    left_to_expire,
    left_at_the_bank,
    cancelled_at_the_bank,
    paid_and_cancelled_at_once,
    wanted_by_two,
    given_back_and_bought_by_another,
    edited_while_it_is_bought,
    edited_and_not_sold,
)


async def every_end(people: People, rounds: int, *, at_once: int = 12) -> Counter[str]:
    """Let as many purchases come to each kind of end; return how many of each."""
    left = iter([end for _ in range(rounds) for end in ENDS])
    done: Counter[str] = Counter()

    async def one_by_one() -> None:
        for end in left:
            await end(people)
            done[end.__name__] += 1

    async with asyncio.TaskGroup() as going:
        for _ in range(at_once):
            going.create_task(one_by_one())
    return done


Ask = Callable[[str, str], Awaitable[Any]]


async def everything_ended(value: Ask, seconds: float = 120.0) -> None:
    """Wait until nothing is under way any more; `value` asks a service's database for one value."""
    until = clock.monotonic_seconds() + seconds
    while True:
        found = [await value(service, sql) for service, sql in IN_PROGRESS]
        if not any(found):
            return
        assert clock.monotonic_seconds() < until, f"still under way after {seconds} s: {found}"
        await asyncio.sleep(_LOOKS_AGAIN_SECONDS)
