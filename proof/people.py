"""The scripted people: impatient, forgetful, fast with the mouse; every request of theirs goes into the history."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from random import Random
from typing import Any, Final
from uuid import UUID

from admitone.kernel.http.operations import ACCEPTED, CREATED, NO_CONTENT, OK
from proof.clients import NO_HEADERS, Client, Json, Reply
from proof.history import ClientHistory

PASSWORD: Final = "eleven-brass-owls"
GOOD_CARD: Final = "tok_visa"
DECLINED_CARD: Final = "tok_chargeDeclined"
CONFIRMED_CARD: Final = "tok_threeDSecureRequired"
UNKNOWN_CARD: Final = "tok_nonsense"
_CARDS: Final = (GOOD_CARD,) * 12 + (DECLINED_CARD, CONFIRMED_CARD, CONFIRMED_CARD, UNKNOWN_CARD)

_UNKNOWN_FROM: Final = 500
_RETRY_SECONDS_MAX: Final = 2.0


@dataclass(frozen=True)
class Habits:
    """How people behave, as chances, pauses and patience."""

    pauses_seconds: tuple[float, ...]
    """Between two actions: one of these, and any part of it."""
    retries: tuple[int, ...]
    settle: Mapping[str, float]
    """What a buyer does with an order, with weights; see `Crowd._settle`."""
    keyed: float = 1.0
    """How often a request that creates something has an Idempotency-Key."""
    reorders: float = 0.1
    meddles: float = 0.05
    loses_interest: float = 0.0
    """How often a ticket is forgotten that somebody else holds."""
    late_seconds: tuple[float, float] = (0.0, 0.0)
    bank_seconds: tuple[float, float] = (0.0, 0.5)


# For scripted purchases: one request after another, without pauses or retries.
STRAIGHT: Final = Habits(pauses_seconds=(0.0,), retries=(0,), settle={"pay": 1})


@dataclass(eq=False)
class Ticket:
    """A ticket as its seller knows it."""

    id: UUID
    seller: "Person"
    price_cents: int
    version: int = 0


@dataclass(frozen=True)
class Payment:
    """The outcome of a request to pay: the money is held, it may be tried again, or neither."""

    is_done: bool
    is_worth_another_try: bool


@dataclass(eq=False)
class Person:
    """A signed-in user."""

    id: UUID
    session: str
    client: Client
    history: ClientHistory = field(default_factory=ClientHistory)
    random: Random = field(default_factory=Random)
    habits: Habits = STRAIGHT
    name: str = ""
    edits: int = 0

    async def request(
        self, method: str, path: str, body: Json | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> Reply:
        """Send one request; the status is None if nobody can know whether it had its effect."""
        reply = await self.client.request(method, path, self.session, body, headers)
        self.history.statuses[reply.status or 0] += 1
        if reply.status == _UNKNOWN_FROM:
            self.history.problem(f"{method} {path} is answered with 500: {reply.text[:200]!r}")
        return Reply(None, headers=reply.headers) if (reply.status or 0) >= _UNKNOWN_FROM else reply

    async def request_patiently(
        self, method: str, path: str, body: Json | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> Reply:
        """Repeat a request that may be repeated while no response arrives, for as long as patience lasts."""
        self.history.requests += 1
        for left in range(self.random.choice(self.habits.retries), -1, -1):
            reply = await self.request(method, path, body, headers)
            if reply.status is not None:
                return reply
            if left:
                wanted_seconds = float(reply.headers.get("retry-after", self.random.uniform(0.1, 2.0)))
                await asyncio.sleep(min(wanted_seconds, _RETRY_SECONDS_MAX) * self.random.uniform(0.8, 1.5))
        self.history.unanswered += 1
        return reply

    def _key(self) -> Mapping[str, str]:
        return {"idempotency-key": f"{self.random.getrandbits(64):x}"}

    def _maybe_key(self) -> Mapping[str, str]:
        return self._key() if self.random.random() < self.habits.keyed else NO_HEADERS

    async def list_ticket(self, title: str = "Fado night", price_cents: int = 2000) -> Ticket | None:
        body = {"title": title, "price": price_cents / 100}
        reply = await self.request_patiently("POST", "/api/tickets", body, self._key())
        ticket = Ticket(UUID(reply.body["id"]), self, price_cents) if reply.status == CREATED else None
        self.history.record("list", self.id, reply.status, CREATED, ticket=ticket and ticket.id, title=title)
        return ticket

    async def edit(self, ticket: Ticket, price_cents: int, *, if_unchanged: bool = False) -> None:
        """Edit everything, once: a repeated edit is a second edit."""
        self.edits += 1
        body = {
            "title": f"Another seat {self.edits}",
            "price": price_cents / 100,
            "venue": f"Hall {self.edits}",
            "seat": str(self.edits),
        }
        headers = {"if-match": f'"{ticket.version}"'} if if_unchanged else NO_HEADERS
        self.history.requests += 1
        reply = await self.request("PUT", f"/api/tickets/{ticket.id}", body, headers)
        self.history.unanswered += reply.status is None
        version = reply.body["version"] if reply.status == OK else None
        self.history.record("edit", self.id, reply.status, OK, ticket=ticket.id, version=version)
        if version is not None:
            ticket.version, ticket.price_cents = version, price_cents

    async def reserve(self, ticket: Ticket | UUID, *, clicks: int = 1) -> list[UUID]:
        """Reserve a ticket; several clicks are one request if they have a key, and several requests if not."""
        ticket_id = ticket.id if isinstance(ticket, Ticket) else ticket
        headers = self._maybe_key()
        made: list[UUID] = []
        statuses: list[int | None] = []

        async def click() -> None:
            if clicks > 1:
                await asyncio.sleep(self.random.uniform(0.0, 0.05))
            send = self.request_patiently if headers else self.request
            reply = await send("POST", "/api/orders", {"ticketId": str(ticket_id)}, headers)
            statuses.append(reply.status)
            if reply.status == CREATED:
                order_id, price_cents = UUID(reply.body["id"]), round(reply.body["ticket"]["price"] * 100)
                if order_id not in made:
                    made.append(order_id)
                    facts = {"ticket": ticket_id, "order": order_id, "price_cents": price_cents}
                    self.history.record("order", self.id, CREATED, CREATED, **facts)
            elif not headers:
                self.history.record("order", self.id, reply.status, CREATED, ticket=ticket_id)

        await asyncio.gather(*(click() for _ in range(clicks)))
        if headers and not made:
            status = None if None in statuses else statuses[0]
            self.history.record("order", self.id, status, CREATED, ticket=ticket_id)
        if headers and len(made) > 1:
            self.history.problem(f"one key made several orders: {made}")
        return made

    async def pay(self, order_id: UUID, card: str = "", *, goes_to_bank: bool = False) -> Payment:
        body = {"orderId": str(order_id), "token": card or self.random.choice(_CARDS)}
        reply = await self.request_patiently("POST", "/api/payments", body, self._maybe_key())
        is_held = reply.status == CREATED and reply.body["status"] == "authorized"
        is_open = reply.status == ACCEPTED or (reply.status == CREATED and not is_held)
        self.history.record("pay", self.id, None if is_open else reply.status, CREATED, order=order_id)
        if is_open and goes_to_bank and reply.body["status"] == "requires_action":
            await asyncio.sleep(self.random.uniform(*self.habits.bank_seconds))
            mood = self.random.random()
            if mood < 0.9:
                await self.client.confirm(reply.body, agrees=mood < 0.75)
        # Anything else than a closed order may be tried again: a declined card, an unknown order, no response.
        is_over = reply.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT}
        return Payment(is_held or is_open, not (is_held or is_open or is_over))

    async def cancel(self, order_id: UUID) -> bool:
        reply = await self.request_patiently("DELETE", f"/api/orders/{order_id}")
        self.history.record("cancel", self.id, reply.status, NO_CONTENT, order=order_id)
        return reply.status == NO_CONTENT


@dataclass
class Crowd:
    """Everybody who trades at random in one run."""

    client: Client
    random: Random
    habits: Habits
    hold_seconds: float
    history: ClientHistory = field(default_factory=ClientHistory)
    on_sale: dict[UUID, Ticket] = field(default_factory=dict)
    people: list[Person] = field(default_factory=list)
    _titles: int = 0

    def join(self, user_id: UUID, session: str, name: str = "") -> Person:
        """Add a user who is signed in."""
        person = Person(user_id, session, self.client, self.history, self.random, self.habits, name)
        self.people.append(person)
        return person

    async def sign_up(self) -> Person:
        """Sign up somebody new; an e-mail whose response was lost is given up."""
        while True:
            email = f"person-{self.random.getrandbits(48):x}@example.com"
            body = {"email": email, "password": PASSWORD}
            self.history.requests += 1
            reply = await self.client.request("POST", "/api/users/signup", "", body, NO_HEADERS)
            self.history.statuses[reply.status or 0] += 1
            if reply.status == CREATED:
                session = reply.headers["set-cookie"].partition("session=")[2].partition(";")[0]
                person = self.join(UUID(reply.body["id"]), session, email)
                self.history.record("sign up", person.id, reply.status, CREATED)
                return person
            self.history.unanswered += reply.status is None
            await asyncio.sleep(0.5)

    async def pause(self) -> None:
        await asyncio.sleep(self.random.choice(self.habits.pauses_seconds) * self.random.random())

    def _price_cents(self) -> int:
        return self.random.randint(50, 100_000)

    # Selling.

    async def list_ticket(self, seller: Person) -> Ticket | None:
        """List a ticket for everybody."""
        self._titles += 1
        ticket = await seller.list_ticket(f"Seat {self._titles}", self._price_cents())
        if ticket is not None:
            self.on_sale[ticket.id] = ticket
        return ticket

    async def edit_a_ticket(self, seller: Person) -> None:
        own = [each for each in self.on_sale.values() if each.seller is seller]
        if own:
            await self._edit(self.random.choice(own))

    async def _edit(self, ticket: Ticket) -> None:
        """Change what is offered, in half of the cases at the same price."""
        price_cents = self._price_cents() if self.random.random() < 0.5 else ticket.price_cents
        await ticket.seller.edit(ticket, price_cents, if_unchanged=self.random.random() < 0.4)

    # Buying.

    async def shop(self, buyer: Person) -> None:
        """Reserve something and settle the order in some way."""
        await self.pause()
        if not self.on_sale:
            return
        ticket = self.random.choice(list(self.on_sale.values()))
        clicks = self.random.choice((1, 1, 1, 1, 2, 3))
        edit = asyncio.create_task(self._edit(ticket)) if self.random.random() < 0.1 else None
        orders = await buyer.reserve(ticket, clicks=clicks)
        if edit is not None:
            await edit
        if not orders and self.random.random() < self.habits.loses_interest:
            self.on_sale.pop(ticket.id, None)
        if orders and self.random.random() < self.habits.reorders and await buyer.cancel(orders[0]):
            # One order begins right after another one ends.
            orders = await buyer.reserve(ticket)
        for order_id in orders:
            if await self._settle(buyer, order_id) and self.random.random() < 0.8:
                self.on_sale.pop(ticket.id, None)  # some still want a ticket that is sold

    async def _settle(self, buyer: Person, order_id: UUID) -> bool:
        """Do with an order what comes to mind; return whether it was paid."""
        await self.pause()
        choices, pay = self.habits.settle, partial(buyer.pay, goes_to_bank=True)
        payment: Payment | None = None
        match self.random.choices(list(choices), list(choices.values()))[0]:
            case "leave":
                return False
            case "cancel":
                await buyer.cancel(order_id)
            case "pay and cancel":
                payment, _ = await asyncio.gather(pay(order_id), self._soon(buyer.cancel(order_id)))
            case "pay twice":
                payment, _ = await asyncio.gather(pay(order_id), self._soon(pay(order_id)))
            case "pay late":
                await asyncio.sleep(self.random.uniform(*self.habits.late_seconds) * self.hold_seconds)
                payment = await pay(order_id)
            case "pay":
                for _ in range(self.random.randint(1, 6)):
                    payment = await pay(order_id)
                    if not payment.is_worth_another_try:
                        break
                    await self.pause()
        if self.random.random() < self.habits.meddles:
            await self._meddle(buyer, order_id)
        return payment is not None and payment.is_done

    async def _soon(self, act: Awaitable[Any]) -> Any:
        await asyncio.sleep(self.random.choice((0.0, 0.02, 0.2, 2.0)))
        return await act

    async def _meddle(self, buyer: Person, order_id: UUID) -> None:
        """Let a stranger try to cancel and to pay somebody's order."""
        stranger = self.random.choice([each for each in self.people if each is not buyer])
        reply = await stranger.request("DELETE", f"/api/orders/{order_id}")
        if reply.status == NO_CONTENT:
            self.history.problem(f"a stranger cancelled order {order_id}")
        await stranger.pay(order_id)
