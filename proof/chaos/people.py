"""Those who trade while everything breaks: impatient, forgetful, quick with the mouse; and what they were told."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from random import Random
from typing import Any, Final, Literal
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import msgspec

from admitone.invariants import ClientRecord
from admitone.kernel.http.operations import ACCEPTED, CREATED, NO_CONTENT, OK
from proof.chaos.client import NO_ANSWER, Client

Json = dict[str, Any]
NO_HEADERS: Final[Mapping[str, str]] = {}
Did = Literal["sign up", "list", "edit", "order", "cancel", "pay"]

PASSWORD: Final = "eleven-brass-owls"  # noqa: S105 – of people who live for some minutes
_UNKNOWN_FROM: Final = 500
_TIMEOUT_SECONDS: Final = 10.0
_RETRIES_MAX: Final = 2
_RETRY_AFTER_SECONDS_MAX: Final = 2.0
_ON_SALE: Final = 60
_TRIES_TO_PAY: Final = 6
GOOD_CARD: Final = "tok_visa"
BAD_CARD: Final = "tok_chargeDeclined"
CONFIRMED_CARD: Final = "tok_threeDSecureRequired"
_CARDS: Final = (GOOD_CARD,) * 16 + (BAD_CARD,) * 2 + (CONFIRMED_CARD,) * 2
_SERVICE_OF: Final = {"users": "auth", "tickets": "tickets", "orders": "orders", "payments": "payments"}


@dataclass(frozen=True)
class SignedInUser:
    """Somebody who is signed in."""

    id: UUID
    email: str
    session: str


@dataclass
class Ticket:
    """A ticket as its seller knows it."""

    id: UUID
    seller: SignedInUser
    version: int


@dataclass
class Crowd:
    """Everybody who trades, and the record of what they asked and were told."""

    port: int
    random: Random
    history: list[ClientRecord] = field(default_factory=list)
    on_sale: dict[UUID, Ticket] = field(default_factory=dict)
    people: list[SignedInUser] = field(default_factory=list)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How often which service answered what; 0 stands for no answer."""
    asked: int = 0
    """Wishes, however often each was sent."""
    unanswered: int = 0
    """Those of them that ended without an answer after every retry."""
    wrong: list[str] = field(default_factory=list)
    is_over: bool = False
    _number: int = 0

    def __post_init__(self) -> None:
        self._client = Client(self.port)
        self._banks: dict[int, Client] = {}

    def close(self) -> None:
        for client in (self._client, *self._banks.values()):
            client.close()

    async def gather(self, people: int) -> None:
        """Sign people up, while all is well."""
        for _ in range(people):
            self.people.append(await self.sign_up())

    async def trade(self, sellers: int) -> None:
        """Sell and buy until it `is_over`; the first of the people sell, the others buy.

        What was begun is ended: a request whose answer nobody waits for is missing in the record.
        """
        async with asyncio.TaskGroup() as group:
            for seller in self.people[:sellers]:
                group.create_task(self._again_and_again(partial(self._sell, seller)))
            for buyer in self.people[sellers:]:
                group.create_task(self._again_and_again(partial(self._buy, buyer)))
            group.create_task(self._again_and_again(self._join))

    async def _again_and_again(self, act: Callable[[], Awaitable[object]]) -> None:
        while not self.is_over:
            await act()

    # Asking.

    def new_key(self) -> str:
        self._number += 1
        return f"chaos-{self._number}"

    def _keyed(self, key: str) -> Mapping[str, str]:
        return {"idempotency-key": key}

    async def ask(
        self,
        person: SignedInUser | None,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        timeout_seconds: float = _TIMEOUT_SECONDS,
    ) -> tuple[int | None, Json, Mapping[str, str]]:
        """Send one request; the status is None where nobody can know whether it had its effect."""
        service = _SERVICE_OF.get(path.split("/")[2] if path.startswith("/api/") else "", "web")
        given = dict(headers)
        if person is not None:
            given["cookie"] = f"session={person.session}"
        if body is not None:
            given["content-type"] = "application/json"
        content = None if body is None else msgspec.json.encode(body)
        try:
            answer = await self._client.ask(method, path, given, content, timeout_seconds)
        except NO_ANSWER:
            self.statuses[service, 0] += 1
            return None, {}, NO_HEADERS
        self.statuses[service, answer.status] += 1
        if answer.status == _UNKNOWN_FROM:
            self.wrong.append(f"{method} {path} is answered with 500: {answer.body[:200]!r}")
        if answer.status >= _UNKNOWN_FROM:
            return None, {}, answer.headers
        is_json = answer.body and answer.headers.get("content-type", "").startswith("application/json")
        return answer.status, msgspec.json.decode(answer.body) if is_json else {}, answer.headers

    async def insist(
        self,
        person: SignedInUser | None,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        retries: int = _RETRIES_MAX,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> tuple[int | None, Json]:
        """Ask again while no answer comes, twice at most; only what may be repeated is asked like this."""
        self.asked += 1
        for left in range(retries, -1, -1):
            status, answer, told = await self.ask(person, method, path, body, headers=headers)
            if status is not None:
                return status, answer
            if left:
                pause = min(float(told.get("retry-after", 0.3)), _RETRY_AFTER_SECONDS_MAX)
                await asyncio.sleep(pause * self.random.uniform(0.8, 1.5))
        self.unanswered += 1
        return None, {}

    def note(self, did: Did, person: UUID, status: int | None, *wanted: int, **facts: Any) -> None:
        outcome: Literal["answered", "refused", "unknown"]
        outcome = "unknown" if status is None else "answered" if status in wanted else "refused"
        self.history.append(ClientRecord(action=did, outcome=outcome, person=person, **facts))

    async def _pause(self, longest_seconds: float) -> None:
        await asyncio.sleep(self.random.uniform(0.0, longest_seconds))

    # Who they are.

    async def sign_up(self) -> SignedInUser:
        """Sign somebody new up, or in where the first answer was lost."""
        while True:
            self._number += 1
            email = f"person-{self._number}@example.com"
            body = {"email": email, "password": PASSWORD}
            self.asked += 1
            status, shown, headers = await self.ask(None, "POST", "/api/users/signup", body)
            if status == CREATED:
                session = headers["set-cookie"].partition("session=")[2].partition(";")[0]
                person = SignedInUser(UUID(shown["id"]), email, session)
                self.note("sign up", person.id, status, CREATED)
                return person
            self.unanswered += status is None
            await asyncio.sleep(0.5)

    async def _join(self) -> None:
        await self._pause(6.0)
        await self.sign_up()

    # Selling.

    async def _sell(self, seller: SignedInUser) -> None:
        await self._pause(0.15)
        if len(self.on_sale) < _ON_SALE:
            await self.list(seller)
        own = [each for each in self.on_sale.values() if each.seller is seller]
        if own and self.random.random() < 0.1:
            await self._edit(self.random.choice(own))

    async def list(self, seller: SignedInUser, *, is_public: bool = True) -> Ticket | None:
        """Put a ticket on sale, for everybody or for the one who asks for it."""
        self._number += 1
        title = f"Seat {self._number}"
        body = {"title": title, "price": self.random.randint(100, 100_000) / 100}
        status, shown = await self.insist(seller, "POST", "/api/tickets", body, headers=self._keyed(self.new_key()))
        ticket = Ticket(UUID(shown["id"]), seller, 0) if status == CREATED else None
        self.note("list", seller.id, status, CREATED, ticket=ticket.id if ticket else None, title=title)
        if ticket is not None and is_public:
            self.on_sale[ticket.id] = ticket
        return ticket

    async def _edit(self, ticket: Ticket) -> None:
        body = {"title": "Another seat", "price": self.random.randint(100, 100_000) / 100}
        headers = {"if-match": f'"{ticket.version}"'} if self.random.random() < 0.4 else NO_HEADERS
        # Once only: a second try of an edit is a second edit.
        status, shown = await self.insist(
            ticket.seller, "PUT", f"/api/tickets/{ticket.id}", body, retries=0, headers=headers
        )
        version = shown.get("version") if status == OK else None
        self.note("edit", ticket.seller.id, status, OK, ticket=ticket.id, version=version)
        if version is not None:
            ticket.version = version

    # Buying.

    async def _buy(self, buyer: SignedInUser) -> None:
        await self._pause(0.6)
        if not self.on_sale:
            return
        ticket = self.random.choice(list(self.on_sale.values()))
        order_id = await self.order(buyer, ticket, clicks=self.random.choice((1, 1, 1, 1, 2, 3)))
        if self.random.random() < 0.6 or order_id is not None:
            self.on_sale.pop(ticket.id, None)
        if order_id is not None:
            await self._settle(buyer, ticket, order_id)

    async def order(self, buyer: SignedInUser, ticket: Ticket, *, clicks: int = 1) -> UUID | None:
        """Reserve a ticket, with one key for all the clicks."""
        key = self.new_key()
        made: set[UUID] = set()
        prices: list[int] = []
        answers: list[int | None] = []

        async def click() -> None:
            status, order = await self.insist(
                buyer, "POST", "/api/orders", {"ticketId": str(ticket.id)}, headers=self._keyed(key)
            )
            answers.append(status)
            if status == CREATED:
                made.add(UUID(order["id"]))
                prices.append(round(order["ticket"]["price"] * 100))

        await asyncio.gather(*(click() for _ in range(clicks)))
        if len(made) > 1:
            self.wrong.append(f"one key made several orders: {made}")
        if not made:
            status = None if None in answers else answers[0]
            self.note("order", buyer.id, status, CREATED, ticket=ticket.id)
            return None
        (order_id,) = list(made)[:1]
        self.note("order", buyer.id, CREATED, CREATED, ticket=ticket.id, order=order_id, price_cents=prices[0])
        return order_id

    async def _settle(self, buyer: SignedInUser, ticket: Ticket, order_id: UUID) -> None:
        """Do with an order what comes to mind."""
        what = self.random.random()
        if what < 0.05:
            await self.cancel(buyer, order_id)
            self.on_sale[ticket.id] = ticket
        elif what < 0.09:
            return  # left to expire
        elif what < 0.13:
            await asyncio.gather(self.pay(buyer, order_id), self._soon(lambda: self.cancel(buyer, order_id)))
        elif what < 0.17:
            await asyncio.gather(self.pay(buyer, order_id), self._soon(lambda: self.pay(buyer, order_id)))
        else:
            await self._pay_at_last(buyer, order_id)
        if self.random.random() < 0.03:
            stranger = self.random.choice(self.people)
            if stranger is not buyer:
                status, _, _ = await self.ask(stranger, "DELETE", f"/api/orders/{order_id}")
                if status == NO_CONTENT:
                    self.wrong.append(f"a stranger cancelled order {order_id}")

    async def _pay_at_last(self, buyer: SignedInUser, order_id: UUID) -> None:
        """Press the button again until the order is paid or lost, as one does who wants the ticket."""
        for _ in range(_TRIES_TO_PAY):
            if await self.pay(buyer, order_id) != "again" or self.is_over:
                return
            await self._pause(1.0)

    async def _soon(self, act: Callable[[], Any]) -> None:
        await self._pause(0.2)
        await act()

    async def pay(
        self, buyer: SignedInUser, order_id: UUID, card: str | None = None
    ) -> Literal["done", "again", "over"]:
        """Pay; return whether that is done, or worth another try."""
        token = card or self.random.choice(_CARDS)
        body = {"orderId": str(order_id), "token": token}
        status, payment = await self.insist(buyer, "POST", "/api/payments", body, headers=self._keyed(self.new_key()))
        is_done = status == CREATED and payment["status"] == "authorized"
        is_open = status == ACCEPTED or (status == CREATED and not is_done)
        self.note("pay", buyer.id, None if is_open else status, CREATED, order=order_id)
        if status == CREATED and payment["status"] == "requires_action":
            await self._pause(0.5)
            await self._confirm(payment.get("action", {}))
            return "done"
        if is_done or is_open:
            return "done"
        # Refused, or payments has not heard of the order, or nobody answered: what remains is a closed order.
        return "over" if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT} else "again"

    async def _confirm(self, action: Json) -> None:
        """Say yes at the bank, or no; where payments cannot say yet how, leave it."""
        if "url" not in action:
            return
        form = {
            "client_secret": action["clientSecret"],
            "outcome": "approve" if self.random.random() < 0.85 else "fail",
        }
        bank = urlsplit(action["url"])
        assert bank.port is not None
        if bank.port not in self._banks:
            self._banks[bank.port] = Client(bank.port)
        headers = {"content-type": "application/x-www-form-urlencoded"}
        with contextlib.suppress(*NO_ANSWER):  # the payment then waits for its confirmation until its order expires
            await self._banks[bank.port].ask("POST", bank.path, headers, urlencode(form).encode(), _TIMEOUT_SECONDS)

    async def cancel(self, buyer: SignedInUser, order_id: UUID) -> None:
        status, _ = await self.insist(buyer, "DELETE", f"/api/orders/{order_id}")
        self.note("cancel", buyer.id, status, NO_CONTENT, order=order_id)
