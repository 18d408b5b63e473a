"""Those who use the marketplace, none too patient or too careful, and the record of what they were told."""

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from admitone.invariants import ClientRecord
from admitone.kernel.http.operations import CREATED, NO_CONTENT, OK
from admitone.kernel.http.sessions import SignedInUser
from proof.simulation.provider import BAD_CARD, CONFIRMED_CARD, GOOD_CARD, NO_CARD

if TYPE_CHECKING:
    from proof.simulation.world import World

Json = dict[str, Any]
_UNKNOWN_FROM: Final = 500
_CARDS: Final = (GOOD_CARD,) * 9 + (BAD_CARD, CONFIRMED_CARD, CONFIRMED_CARD, NO_CARD)
_RETRIES_MAX: Final = 6


@dataclass
class Ticket:
    """A ticket as people know it."""

    id: UUID
    seller: str
    version: int
    price_cents: int


@dataclass
class People:
    """Everybody of one seed."""

    world: "World"
    random: Random
    history: list[ClientRecord] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)
    _keys: int = 0

    def __post_init__(self) -> None:
        self.sellers = ["alice", *(["trent"] if self.random.random() < 0.5 else [])]
        self.buyers = ["bob", "carol", "dave", "erin"][: self.random.randint(2, 4)]
        for name in (*self.sellers, *self.buyers):
            self.world.people[name] = SignedInUser(
                id=self.world.new_uuid(), email=f"{name}@example.com", session_id=self.world.new_uuid(), expires_at=4e9
            )

    async def trade(self) -> None:
        """Do all that people do in this seed."""
        async with asyncio.TaskGroup() as group:
            for seller in self.sellers:
                group.create_task(self._sell(seller))
            for buyer in self.buyers:
                group.create_task(self._shop(buyer))

    # Asking.

    def _key(self) -> str:
        self._keys += 1
        return f"key-{self._keys}"

    def _id(self, name: str) -> UUID:
        return self.world.people[name].id

    async def _ask(
        self, name: str, service: str, method: str, path: str, body: Json | None = None, **headers: str
    ) -> tuple[int | None, Json]:
        process = self.world.process_of(service, self.random)
        if process is None:
            await asyncio.sleep(0.2)
            return None, {}
        given = {key.replace("_", "-"): value for key, value in headers.items()}
        encoded = b"" if body is None else msgspec.json.encode(body)
        status, answer = await process.ask(method, path, name, encoded, given)
        self.world.trace("asked", name, method, path, status)
        if status is not None and status >= _UNKNOWN_FROM:
            if status == _UNKNOWN_FROM:
                self.world.wrong(f"{method} {path} is answered with 500")
            status = None
        return status, msgspec.json.decode(answer) if status is not None and answer else {}

    async def _insist(
        self, name: str, service: str, method: str, path: str, body: Json, **headers: str
    ) -> tuple[int | None, Json]:
        """Ask again under the same key while no answer comes, for as long as patience lasts."""
        patience = self.random.randint(0, _RETRIES_MAX)
        while True:
            status, answer = await self._ask(name, service, method, path, body, **headers)
            if status is not None or patience == 0:
                return status, answer
            patience -= 1
            await asyncio.sleep(self.random.uniform(0.1, 2.0))

    def _note(self, did: Any, name: str, status: int | None, *wanted: int, **facts: Any) -> None:
        outcome = "unknown" if status is None else "answered" if status in wanted else "refused"
        self.history.append(ClientRecord(action=did, outcome=outcome, person=self._id(name), **facts))  # type: ignore[arg-type]

    # Selling.

    async def _sell(self, name: str) -> None:
        for number in range(self.random.choice((1, 2, 3))):
            await self._list(name, f"Seat {number} of {name}")
            await asyncio.sleep(self.random.uniform(0.0, 2.0))
        for _ in range(self.random.choice((0, 1, 2, 4, 8))):
            await asyncio.sleep(self.random.choice((0.1, 1.0, 10.0)) * self.random.random())
            own = [each for each in self.tickets if each.seller == name]
            if own:
                await self._edit(name, self.random.choice(own))

    async def _list(self, name: str, title: str) -> None:
        price_cents = self.random.randint(50, 100_000)
        body = {"title": title, "price": price_cents / 100}
        status, shown = await self._insist(name, "tickets", "POST", "/api/tickets", body, idempotency_key=self._key())
        ticket_id = UUID(shown["id"]) if status == CREATED else None
        self._note("list", name, status, CREATED, ticket=ticket_id, title=title)
        if ticket_id is not None:
            self.tickets.append(Ticket(ticket_id, name, 0, price_cents))

    async def _edit(self, name: str, ticket: Ticket) -> None:
        price_cents = self.random.choice((ticket.price_cents, self.random.randint(50, 100_000)))
        body = {"title": "Another seat", "price": price_cents / 100}
        headers = {"if_match": f'"{ticket.version}"'} if self.random.random() < 0.4 else {}
        status, shown = await self._ask(name, "tickets", "PUT", f"/api/tickets/{ticket.id}", body, **headers)
        version = shown.get("version") if status == OK else None
        self._note("edit", name, status, OK, ticket=ticket.id, version=version)
        if version is not None:
            ticket.version, ticket.price_cents = version, price_cents

    # Buying.

    async def _shop(self, name: str) -> None:
        await asyncio.sleep(self.random.uniform(0.5, 3.0))
        for _ in range(self.random.randint(1, 4)):
            await asyncio.sleep(self.random.choice((0.1, 1.0, 6.0)) * self.random.random())
            if not self.tickets:
                continue
            ticket = self.random.choice(self.tickets)
            orders = await self._order(name, ticket)
            if orders and self.random.random() < 0.12:
                orders = await self._change_mind(name, ticket, orders[0])
            for order_id in orders:
                is_paid = await self._settle(name, order_id)
                # Most people look for something else then; some want what is sold.
                if is_paid and ticket in self.tickets and self.random.random() < 0.8:
                    self.tickets.remove(ticket)

    async def _change_mind(self, name: str, ticket: Ticket, order_id: UUID) -> list[UUID]:
        """Cancel at once and want it again: one order begins right after another one ends."""
        if await self._cancel(name, order_id):
            return await self._order(name, ticket)
        return [order_id]

    async def _order(self, name: str, ticket: Ticket) -> list[UUID]:
        """Reserve, sometimes with a double click, sometimes under a key of its own for each click."""
        key = self._key()
        clicks = self.random.choice((1, 1, 1, 1, 2, 3))
        is_keyed = self.random.random() < 0.8
        made: list[UUID] = []
        answers: list[int | None] = []

        async def click() -> None:
            await asyncio.sleep(self.random.uniform(0.0, 0.05))
            headers = {"idempotency_key": key} if is_keyed else {}
            # Without a key a second try is a second wish, so there is none.
            ask = self._insist if is_keyed else self._ask
            status, order = await ask(name, "orders", "POST", "/api/orders", {"ticketId": str(ticket.id)}, **headers)
            answers.append(status)
            if status != CREATED:
                if not is_keyed:
                    self._note("order", name, status, CREATED, ticket=ticket.id)
                return
            order_id = UUID(order["id"])
            if order_id not in made:
                made.append(order_id)
                self._note(
                    "order", name, status, CREATED, ticket=ticket.id, order=order_id,
                    price_cents=round(order["ticket"]["price"] * 100),
                )  # fmt: skip

        edits = [self._edit(ticket.seller, ticket)] if self.random.random() < 0.1 else []
        await asyncio.gather(*(click() for _ in range(clicks)), *edits)
        if is_keyed and not made:
            self._note("order", name, None if None in answers else answers[0], CREATED, ticket=ticket.id)
        elif is_keyed and len(made) > 1:
            self.world.wrong(f"one key made several orders: {made}")
        return made

    async def _settle(self, name: str, order_id: UUID) -> bool:
        """Do with an order what comes to mind; return whether it was paid."""
        await asyncio.sleep(self.random.choice((0.0, 0.05, 1.0, self.random.uniform(0.0, 20.0))))
        what = self.random.random()
        is_paid = False
        if what < 0.08:
            await self._cancel(name, order_id)
        elif what < 0.15:
            return False  # left to expire
        elif what < 0.25:
            await asyncio.gather(self._pay(name, order_id), self._later(self._cancel(name, order_id)))
        elif what < 0.35:
            await asyncio.gather(self._pay(name, order_id), self._later(self._pay(name, order_id)))
        elif what < 0.4:
            await asyncio.sleep(self.random.uniform(0.8, 1.1) * self.world.hold_seconds)
            await self._pay(name, order_id)
        else:
            for _ in range(self.random.randint(1, 3)):
                if is_paid := await self._pay(name, order_id):
                    break
                await asyncio.sleep(self.random.uniform(0.1, 3.0))
        if self.random.random() < 0.1:
            stranger = self.random.choice([each for each in self.buyers if each != name])
            await self._ask(stranger, "orders", "DELETE", f"/api/orders/{order_id}")
            await self._pay(stranger, order_id)
        return is_paid

    async def _later(self, work: Any) -> Any:
        await asyncio.sleep(self.random.choice((0.0, 0.02, 0.5, 2.0)))
        return await work

    async def _pay(self, name: str, order_id: UUID) -> bool:
        """Pay; return whether that is done."""
        token = self.random.choice(_CARDS)
        headers = {"idempotency_key": self._key()} if self.random.random() < 0.8 else {}
        body = {"orderId": str(order_id), "token": token}
        status, payment = await self._insist(name, "payments", "POST", "/api/payments", body, **headers)
        is_done = status == CREATED and payment["status"] == "authorized"
        pending = status is not None and status < 300 and not is_done
        self._note("pay", name, None if pending else status, CREATED, order=order_id)
        if status == CREATED and payment["status"] == "requires_action":
            await asyncio.sleep(self.random.uniform(0.5, 15.0))
            what = self.random.random()
            if what < 0.9:
                self.world.provider.confirm(payment["id"], agrees=what < 0.75)
            return what < 0.75
        return is_done

    async def _cancel(self, name: str, order_id: UUID) -> bool:
        status, _ = await self._ask(name, "orders", "DELETE", f"/api/orders/{order_id}")
        self._note("cancel", name, status, NO_CONTENT, order=order_id)
        return status == NO_CONTENT
