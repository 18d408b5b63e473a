"""Fills a marketplace, through its HTTP API, with people who sell and buy plausible tickets.

A second run repeats the same requests of the same people. Each carries an Idempotency-Key, so it creates nothing new.
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
# Most prices are whole amounts; some are a cent or half a unit less.
_ODD_CENTS: Final = (Decimal(0), Decimal(0), Decimal("0.01"), Decimal("0.50"))
_SOLD_EVERY: Final = 9
_DECLINED_EVERY: Final = 45
_RESERVED_EVERY: Final = 13
_CONCURRENT_MAX: Final = 8
_ATTEMPTS_MAX: Final = 8

_JSON: Final = msgspec.json.Encoder(decimal_format="number")
_GOOD_CARD: Final = "pm_card_visa"
_DECLINED_CARD: Final = "pm_card_chargeDeclined"


class DemoFailed(Exception):
    """The marketplace refused a request of the demo"""


@dataclass(frozen=True)
class Show:
    """A live event: its venue, what a seat is worth in whole currency units, and the names of its sections."""

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
class DemoReport:
    """Counts what the demo has done; `progress` is called after each step."""

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
    """Return the tickets of the demo, the same ones in every run of a week."""
    dice = random.Random(20)  # noqa: S311 – not used for secrets
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


async def require_marketplace(url: str) -> None:
    """Raise DemoFailed or httpx.TransportError unless a marketplace responds at the URL."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        response = await client.get("/api/users/currentuser")
        try:
            known = "currentUser" in _require(response, httpx.codes.OK)
        except msgspec.DecodeError:
            known = False
        if not known:
            raise DemoFailed(f"What responds at {url} is not AdmitOne")


async def fill(url: str, password: str, report: DemoReport) -> None:
    """Sign people up (or in), list tickets, and buy or reserve some of them.

    Raises DemoFailed with the marketplace's response, or httpx.TransportError if it cannot be reached.
    """
    async with AsyncExitStack() as stack:
        people = []
        for name in PEOPLE:
            people.append(await stack.enter_async_context(_person(url, name, password)))
            report.people += 1
            report.progress(1)
        limit = asyncio.Semaphore(_CONCURRENT_MAX)

        async def trade(number: int, listing: dict[str, Any]) -> None:
            async with limit:
                await _trade_ticket(number, listing, people, report)
                report.progress(1)

        await asyncio.gather(
            *(trade(number, each) for number, each in enumerate(listings(clock.now().astimezone(UTC))))
        )


@asynccontextmanager
async def _person(url: str, name: str, password: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        body = {"email": email_of(name), "password": password}
        response = await _send(client, "POST", "/api/users/signup", body)
        if response.status_code == httpx.codes.BAD_REQUEST:
            response = await _send(client, "POST", "/api/users/signin", body)
            if response.status_code == httpx.codes.BAD_REQUEST:
                raise DemoFailed(f"{email_of(name)} exists with another password; see --password")
        _require(response, httpx.codes.OK, httpx.codes.CREATED)
        yield client


def email_of(name: str) -> str:
    """Return the e-mail address of a person of the demo."""
    return f"{name}@demo.example"


async def _trade_ticket(
    number: int, listing: dict[str, Any], people: Sequence[httpx.AsyncClient], report: DemoReport
) -> None:
    """List a ticket; another person then buys it, reserves it, or leaves it on sale."""
    seller, buyer = people[number % 5], people[5 + number % 7]
    response = await _send(seller, "POST", "/api/tickets", listing, key=f"demo-ticket-{number}")
    if response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        report.skipped += 1  # listed in another week, with other dates
        return
    ticket = _require(response, httpx.codes.CREATED)["id"]
    report.listed += 1
    if number % _SOLD_EVERY != 0 and number % _RESERVED_EVERY != 0:
        return
    response = await _send_until_found(buyer, "/api/orders", {"ticketId": ticket}, f"demo-order-{number}")
    if response.status_code == httpx.codes.BAD_REQUEST:
        return  # another buyer was faster, or an earlier run sold it
    order = _require(response, httpx.codes.CREATED)["id"]
    if number % _SOLD_EVERY != 0:
        report.reserved += 1
        return
    if number % _DECLINED_EVERY == 0:
        payment = {"orderId": order, "token": _DECLINED_CARD}
        response = await _send_until_found(buyer, "/api/payments", payment, f"demo-declined-{number}")
        report.declined += response.status_code == httpx.codes.PAYMENT_REQUIRED
    payment = {"orderId": order, "token": _GOOD_CARD}
    response = await _send_until_found(buyer, "/api/payments", payment, f"demo-payment-{number}")
    report.sold += response.is_success


async def _send_until_found(buyer: httpx.AsyncClient, path: str, body: dict[str, Any], key: str) -> httpx.Response:
    """Send a request about something created in another service, which may learn of it a moment later."""
    for _ in range(_ATTEMPTS_MAX * 4):
        response = await _send(buyer, "POST", path, body, key=key)
        if response.status_code != httpx.codes.NOT_FOUND:
            return response
        await asyncio.sleep(0.1)
    return response


async def _send(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any], *, key: str | None = None
) -> httpx.Response:
    """Send a request, and repeat it as long as the response says to retry later."""
    headers = {"content-type": "application/json"} | ({} if key is None else {"idempotency-key": key})
    for attempt in range(_ATTEMPTS_MAX):
        response = await client.request(method, path, content=_JSON.encode(body), headers=headers)
        if response.status_code not in {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE}:
            break
        await asyncio.sleep(min(float(response.headers.get("retry-after", 1)), 2.0**attempt))
    return response


def _require(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    if response.status_code not in statuses:
        request = f"{response.request.method} {response.request.url.path}"
        raise DemoFailed(f"{request} returned {response.status_code}: {response.text[:300]}")
    decoded: dict[str, Any] = msgspec.json.decode(response.content)
    return decoded
