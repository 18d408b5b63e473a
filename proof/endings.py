"""Purchases with every kind of end: a history that is worth publishing again."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from proof.people import CONFIRMED_CARD, DECLINED_CARD, GOOD_CARD, Person, Ticket
from proof.waiting import until

_RESERVE_SECONDS_MAX: Final = 20.0
_CARDS: Final = {"pays": GOOD_CARD, "is declined": DECLINED_CARD, "goes to the bank": CONFIRMED_CARD}

# By ending, its steps one after another; alice has listed the ticket. Steps joined by "&" happen at once.
ENDINGS: Final = {
    "bought": ["bob reserves", "bob pays"],
    "bought with the second card": ["bob reserves", "bob is declined", "bob pays"],
    "declined for good": ["bob reserves", *["bob is declined"] * 3],
    "cancelled": ["bob reserves", "bob cancels"],
    "left to expire": ["bob reserves"],
    "left at the bank": ["bob reserves", "bob goes to the bank"],
    "cancelled at the bank": ["bob reserves", "bob goes to the bank", "bob cancels"],
    "paid and cancelled at once": ["bob reserves", "bob pays & bob cancels"],
    "wanted by two": ["bob tries & carol tries", "bob pays", "carol pays"],
    "cancelled and bought by another": ["bob reserves", "bob cancels", "carol reserves", "carol pays"],
    "edited while it is bought": ["bob reserves & alice edits", "bob pays"],
    "edited and not sold": ["alice edits", "alice edits"],
}


@dataclass(frozen=True)
class Cast:
    """The people of a scripted purchase: alice sells, bob and carol buy."""

    alice: Person
    bob: Person
    carol: Person


async def _purchase(cast: Cast, ticket: Ticket, steps: Sequence[str]) -> None:
    """Let the cast take these steps about one ticket of alice's."""
    last_orders: dict[Person, UUID] = {}

    async def take(name: str, action: str) -> None:
        person: Person = getattr(cast, name)
        match action:
            case "edits":
                await person.edit(ticket, 2500)
            case "reserves":
                last_orders[person] = await reserved(person, ticket)
            case "tries":
                for order in await person.reserve(ticket):
                    last_orders[person] = order
            case "cancels":
                await person.cancel(last_orders[person])
            case _ if person in last_orders:
                await person.pay(last_orders[person], _CARDS[action])

    for step in steps:
        await asyncio.gather(*(take(*each.split(" ", 1)) for each in step.split(" & ")))


async def reserved(buyer: Person, ticket: Ticket) -> UUID:
    """Reserve a ticket as soon as orders knows it and nobody else holds it."""
    orders = await until(lambda: buyer.reserve(ticket), "the ticket can be reserved", _RESERVE_SECONDS_MAX)
    return orders[0]


async def every_ending(cast: Cast, rounds: int, *, at_once: int = 12) -> Counter[str]:
    """Bring that many purchases to each kind of end; return how many of each."""
    left = iter(list(ENDINGS) * rounds)
    done: Counter[str] = Counter()

    async def one_by_one() -> None:
        for ending in left:
            ticket = await cast.alice.list_ticket()
            assert ticket is not None
            await _purchase(cast, ticket, ENDINGS[ending])
            done[ending] += 1

    await asyncio.gather(*(one_by_one() for _ in range(at_once)))
    return done
