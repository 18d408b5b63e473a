"""A marketplace with life in it: people who sell and buy believable tickets, all of it through the HTTP API.

Run twice, it does the same people's same requests again: each carries an Idempotency-Key, so nothing is there twice.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import httpx
import msgspec

from admitone.kernel import clock

PEOPLE: Final = ("alice", "bob", "carol", "dora", "emil", "farah", "goran", "hana", "ines", "jonas", "kofi", "lena")
TICKETS: Final = 300
# What people ask for: mostly whole amounts, some a cent or a half less.
_ODD_CENTS: Final = (Decimal(0), Decimal(0), Decimal("0.01"), Decimal("0.50"))
_SOLD_EVERY: Final = 9
_DECLINED_EVERY: Final = 45
_RESERVED_EVERY: Final = 13
_AT_ONCE: Final = 8
_TRIES_MAX: Final = 8

# A price is an exact decimal here as everywhere.
_JSON: Final = msgspec.json.Encoder(decimal_format="number")
_GOOD_CARD: Final = "pm_card_visa"
_DECLINED_CARD: Final = "pm_card_chargeDeclined"


class DemoFailed(Exception):
    """The marketplace did not do what the demo asked of it"""


@dataclass(frozen=True)
class Show:
    """Something people want to see: where, how much a seat is worth, and what its seats are called."""

    title: str
    venue: str
    hour: int
    worth: int
    sections: tuple[str, ...]
    notes: tuple[str, ...] = ()


_STALLS: Final = ("Stalls", "Circle", "Balcony")
_ARENA: Final = ("Floor", "Block 104", "Block 112", "Block 207")
_GROUND: Final = ("North stand", "East stand", "South stand")

SHOWS: Final = (
    Show(
        "The Paper Lanterns – farewell tour", "Harbour Hall", 20, 68, _ARENA, ("Collected at the door, name changed.",)
    ),
    Show("Fado night with Marta Lisboa", "Clube do Cais", 21, 32, ("Table", "Bar")),
    Show("Swan Lake", "Royal Playhouse", 19, 85, _STALLS, ("Restricted view of the left wing.",)),
    Show("Rovers v. Athletic, league match", "Mill Lane Ground", 15, 41, _GROUND, ("Home supporters only.",)),
    Show("An Evening of Bach Cantatas", "St Anne's Church", 18, 24, ("Nave", "Gallery")),
    Show("Night Bus Comedy – new material", "The Cellar Door", 20, 15, ("Unreserved",), ("Over 16 only.",)),
    Show("The Cherry Orchard", "Little Theatre", 19, 38, _STALLS),
    Show("Electric Meadow Festival, Saturday", "Longmeadow Park", 12, 95, ("Day pass",), ("Wristband, unworn.",)),
    Show("Nadia Okafor Quartet", "Blue Room Jazz Club", 21, 29, ("Table", "Bar")),
    Show("Winter Gala of the Symphony", "Concert House", 19, 110, _STALLS),
    Show("City Marathon, spectators' grandstand", "Market Square", 9, 18, ("Finish line", "Km 40")),
    Show("Open-air cinema: The General", "Castle Gardens", 21, 12, ("Lawn", "Deck chair"), ("Bring a blanket.",)),
    Show("Ice hockey: Bears v. Falcons", "Frost Arena", 18, 36, _ARENA),
    Show("Poetry by the river", "Old Boathouse", 18, 10, ("Unreserved",)),
    Show("The Magic Flute", "State Opera", 19, 120, _STALLS, ("Sung in German, with surtitles.",)),
    Show("Juniper & the Foxgloves", "Assembly Rooms", 20, 34, ("Standing", "Balcony")),
    Show("Stand-up: Priya Raman, Mostly True", "Playhouse Studio", 20, 22, ("Unreserved",)),
    Show("Basketball cup final", "Frost Arena", 17, 74, _ARENA, ("Two seats together, sold singly.",)),
    Show("Science for curious children", "City Museum", 11, 14, ("Lecture hall",)),
    Show("Brass on the Pier", "Harbour Bandstand", 16, 16, ("Deck chair", "Bench")),
)


@dataclass
class Told:
    """What the demo has done; `note` counts, the command shows it."""

    people: int = 0
    listed: int = 0
    sold: int = 0
    reserved: int = 0
    declined: int = 0
    skipped: int = 0
    progress: Callable[[int], None] = field(default=lambda _steps: None)

    @property
    def steps(self) -> int:
        return len(PEOPLE) + TICKETS


def listings(now: datetime) -> Iterator[dict[str, Any]]:
    """Return the tickets of the demo, the same ones whenever it is run in the same week."""
    # The same seed every time: the demo is the same for everybody.
    dice = random.Random(20)  # noqa: S311 – no secret is made of these
    monday = (now - timedelta(days=now.weekday())).replace(hour=0, minute=0, second=0, microsecond=0)
    for number, show in zip(range(TICKETS), itertools.cycle(SHOWS), strict=False):
        date = monday + timedelta(days=14 + dice.randrange(120), hours=show.hour, minutes=dice.choice((0, 30)))
        price = round(show.worth * dice.uniform(0.7, 1.5)) - dice.choice(_ODD_CENTS)
        listing: dict[str, Any] = {
            "title": show.title,
            "price": price,
            "venue": show.venue,
            "section": dice.choice(show.sections),
            "eventDate": date.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if listing["section"] not in {"Unreserved", "Day pass", "Standing", "Lawn", "Bar"}:
            listing |= {"row": "ABCDEFGHJKLM"[dice.randrange(12)], "seat": str(1 + number % 40)}
        if show.notes and dice.random() < 0.3:
            listing["note"] = dice.choice(show.notes)
        yield listing


async def fill(url: str, password: str, told: Told) -> None:
    """Sign people up (or in), list tickets, and let some of them be bought or reserved.

    Raises DemoFailed with what the marketplace said, or httpx.TransportError when it cannot be reached.
    """
    async with AsyncExitStack() as stack:
        people = []
        for name in PEOPLE:
            people.append(await stack.enter_async_context(_person(url, name, password)))
            told.people += 1
            told.progress(1)
        wanted = list(enumerate(listings(clock.now().astimezone(UTC))))
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def live(number: int, listing: dict[str, Any]) -> None:
            async with at_once:
                await _one_ticket(number, listing, people, told)
                told.progress(1)

        await asyncio.gather(*(live(number, listing) for number, listing in wanted))


@asynccontextmanager
async def _person(url: str, name: str, password: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        body = {"email": email(name), "password": password}
        answer = await _asked(client, "POST", "/api/users/signup", body)
        if answer.status_code == httpx.codes.BAD_REQUEST:
            answer = await _asked(client, "POST", "/api/users/signin", body)
            if answer.status_code == httpx.codes.BAD_REQUEST:
                raise DemoFailed(f"{email(name)} exists with another password than this one; see --password")
        _demand(answer, httpx.codes.OK, httpx.codes.CREATED)
        yield client


def email(name: str) -> str:
    """Return the address a person of the demo signs in with."""
    return f"{name}@demo.example"


async def _one_ticket(number: int, listing: dict[str, Any], people: Sequence[httpx.AsyncClient], told: Told) -> None:
    """List a ticket, and let somebody else buy it, reserve it, or leave it on sale."""
    seller, buyer = people[number % 5], people[5 + number % 7]
    answer = await _asked(seller, "POST", "/api/tickets", listing, key=f"demo-ticket-{number}")
    if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        told.skipped += 1  # listed in another week, with other dates
        return
    ticket = _demand(answer, httpx.codes.CREATED)["id"]
    told.listed += 1
    if number % _SOLD_EVERY != 0 and number % _RESERVED_EVERY != 0:
        return
    answer = await _reserved(buyer, ticket, f"demo-order-{number}")
    if answer.status_code == httpx.codes.BAD_REQUEST:
        return  # somebody was faster, or an earlier run sold it
    order = _demand(answer, httpx.codes.CREATED)["id"]
    if number % _SOLD_EVERY != 0:
        told.reserved += 1
        return
    if number % _DECLINED_EVERY == 0:
        answer = await _paid(buyer, order, _DECLINED_CARD, f"demo-declined-{number}")
        told.declined += answer.status_code == httpx.codes.PAYMENT_REQUIRED
    answer = await _paid(buyer, order, _GOOD_CARD, f"demo-payment-{number}")
    told.sold += answer.is_success


async def _reserved(buyer: httpx.AsyncClient, ticket: str, key: str) -> httpx.Response:
    """Reserve a ticket that orders may not have heard of yet."""
    for _ in range(_TRIES_MAX * 4):
        answer = await _asked(buyer, "POST", "/api/orders", {"ticketId": ticket}, key=key)
        if answer.status_code != httpx.codes.NOT_FOUND:
            return answer
        await asyncio.sleep(0.1)
    return answer


async def _paid(buyer: httpx.AsyncClient, order: str, token: str, key: str) -> httpx.Response:
    """Pay for an order that payments may not have heard of yet."""
    for _ in range(_TRIES_MAX * 4):
        answer = await _asked(buyer, "POST", "/api/payments", {"orderId": order, "token": token}, key=key)
        if answer.status_code != httpx.codes.NOT_FOUND:
            return answer
        await asyncio.sleep(0.1)
    return answer


async def _asked(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any], *, key: str | None = None
) -> httpx.Response:
    """Ask, and ask again as long as the answer is "later"."""
    headers = {"content-type": "application/json"} | ({} if key is None else {"idempotency-key": key})
    for attempt in range(_TRIES_MAX):
        answer = await client.request(method, path, content=_JSON.encode(body), headers=headers)
        if answer.status_code not in {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}:
            break
        await asyncio.sleep(min(float(answer.headers.get("retry-after", 1)), 2.0**attempt))
    return answer


def _demand(answer: httpx.Response, *wanted: int) -> dict[str, Any]:
    if answer.status_code not in wanted:
        raise DemoFailed(
            f"{answer.request.method} {answer.request.url.path} was answered {answer.status_code}: {answer.text[:300]}"
        )
    decoded: dict[str, Any] = msgspec.json.decode(answer.content)
    return decoded
