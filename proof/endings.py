"""Purchases with every kind of end, over the API: a history that is worth publishing again."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from proof.people import CONFIRMED_CARD, DECLINED_CARD, GOOD_CARD, Person, Ticket

_RESERVE_SECONDS_MAX: Final = 20.0


@dataclass(frozen=True)
class Cast:
    """The people of a scripted purchase: alice sells, bob and carol buy."""

    alice: Person
    bob: Person
    carol: Person

    async def lists(self) -> Ticket:
        ticket = await self.alice.list_ticket()
        assert ticket is not None
        return ticket


async def reserved(buyer: Person, ticket: Ticket | UUID) -> UUID:
    """Reserve a ticket as soon as orders knows it and nobody else holds it."""
    deadline = time.monotonic() + _RESERVE_SECONDS_MAX
    while not (orders := await buyer.reserve(ticket)):
        assert time.monotonic() < deadline, f"the ticket cannot be reserved within {_RESERVE_SECONDS_MAX} s"
        await asyncio.sleep(0.05)
    return orders[0]


async def _bob_reserves(cast: Cast) -> UUID:
    return await reserved(cast.bob, await cast.lists())


async def bought(cast: Cast) -> None:
    await cast.bob.pay(await _bob_reserves(cast), GOOD_CARD)


async def bought_with_the_second_card(cast: Cast) -> None:
    order = await _bob_reserves(cast)
    await cast.bob.pay(order, DECLINED_CARD)
    await cast.bob.pay(order, GOOD_CARD)


async def declined_for_good(cast: Cast) -> None:
    order = await _bob_reserves(cast)
    for _ in range(3):
        await cast.bob.pay(order, DECLINED_CARD)


async def cancelled(cast: Cast) -> None:
    await cast.bob.cancel(await _bob_reserves(cast))


async def left_to_expire(cast: Cast) -> None:
    await _bob_reserves(cast)


async def left_at_the_bank(cast: Cast) -> None:
    await cast.bob.pay(await _bob_reserves(cast), CONFIRMED_CARD)


async def cancelled_at_the_bank(cast: Cast) -> None:
    order = await _bob_reserves(cast)
    await cast.bob.pay(order, CONFIRMED_CARD)
    await cast.bob.cancel(order)


async def paid_and_cancelled_at_once(cast: Cast) -> None:
    order = await _bob_reserves(cast)
    await asyncio.gather(cast.bob.pay(order, GOOD_CARD), cast.bob.cancel(order))


async def wanted_by_two(cast: Cast) -> None:
    ticket = await cast.lists()
    buyers = (cast.bob, cast.carol)
    for buyer, orders in zip(buyers, await asyncio.gather(*(each.reserve(ticket) for each in buyers)), strict=True):
        for order in orders:
            await buyer.pay(order, GOOD_CARD)


async def cancelled_and_bought_by_another(cast: Cast) -> None:
    ticket = await cast.lists()
    await cast.bob.cancel(await reserved(cast.bob, ticket))
    await cast.carol.pay(await reserved(cast.carol, ticket), GOOD_CARD)


async def edited_while_it_is_bought(cast: Cast) -> None:
    ticket = await cast.lists()
    order, _ = await asyncio.gather(reserved(cast.bob, ticket), cast.alice.edit(ticket, 2500))
    await cast.bob.pay(order, GOOD_CARD)


async def edited_and_not_sold(cast: Cast) -> None:
    ticket = await cast.lists()
    for price_cents in (3000, 3500):
        await cast.alice.edit(ticket, price_cents)


ENDINGS: Final[Sequence[Callable[[Cast], Awaitable[None]]]] = (
    bought,
    bought_with_the_second_card,
    declined_for_good,
    cancelled,
    left_to_expire,
    left_at_the_bank,
    cancelled_at_the_bank,
    paid_and_cancelled_at_once,
    wanted_by_two,
    cancelled_and_bought_by_another,
    edited_while_it_is_bought,
    edited_and_not_sold,
)


async def every_ending(cast: Cast, rounds: int, *, at_once: int = 12) -> Counter[str]:
    """Bring that many purchases to each kind of end; return how many of each."""
    left = iter([ending for _ in range(rounds) for ending in ENDINGS])
    done: Counter[str] = Counter()

    async def one_by_one() -> None:
        for ending in left:
            await ending(cast)
            done[ending.__name__] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(one_by_one())
    return done
