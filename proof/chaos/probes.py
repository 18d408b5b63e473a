"""How long until it works again: small purchases and questions, asked over and over until one goes well."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx
import nats.errors

from admitone import registry
from admitone.kernel.database.pool import UNREACHABLE as DATABASE_AWAY
from admitone.kernel.http.operations import OK
from admitone.kernel.messaging.bus import UNREACHABLE as BUS_AWAY
from proof.chaos.people import GOOD_CARD, Crowd, SignedInUser, Ticket
from proof.chaos.stack import STORED, Stack

AWAY: Final = (*DATABASE_AWAY, *BUS_AWAY, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, nats.errors.Error)
_AGAIN_SECONDS: Final = 0.05
# This one reads every event there is.
_CONVERGED_AGAIN_SECONDS: Final = 0.5
_ONE_TRY_SECONDS: Final = 1.0
_GIVE_UP_SECONDS: Final = 150.0


class NeverCameBack(Exception):
    """What was broken did not work again"""


@dataclass
class Probes:
    """Two people who try one thing after the other."""

    stack: Stack
    crowd: Crowd
    seller: SignedInUser
    buyer: SignedInUser
    ticket: Ticket
    order_id: UUID

    @classmethod
    async def begun(cls, stack: Stack, crowd: Crowd) -> "Probes":
        seller, buyer = await crowd.sign_up(), await crowd.sign_up()
        ticket = await crowd.list(seller, is_public=False)
        assert ticket is not None
        order_id = await crowd.order(buyer, ticket)
        assert order_id is not None
        return cls(stack, crowd, seller, buyer, ticket, order_id)

    async def until(self, works: Callable[[], Awaitable[bool]], *, again_seconds: float = _AGAIN_SECONDS) -> float:
        """Return how many seconds it takes until it works. Raises NeverCameBack."""
        began = time.monotonic()
        while not await works():
            if time.monotonic() - began > _GIVE_UP_SECONDS:
                raise NeverCameBack
            await asyncio.sleep(again_seconds)
        return time.monotonic() - began

    async def until_converged(self, told_before: datetime) -> float:
        """Return how many seconds it takes until the bus has everything again and everyone has heard it."""
        return await self.until(lambda: self.converged(told_before), again_seconds=_CONVERGED_AGAIN_SECONDS)

    async def answers(self, service: str) -> bool:
        """Whether a service answers people; of expiration, whom nobody asks, whether it is ready."""
        if service == "expiration":
            return await self._is_ready(service)
        path = {
            "auth": "/api/users/currentuser",
            "tickets": f"/api/tickets/{self.ticket.id}",
            "orders": f"/api/orders/{self.order_id}",
            "payments": f"/api/payments?orderId={self.order_id}",
            "web": "/auth/signin",
        }[service]
        person = None if service == "web" else self.buyer
        status, _, _ = await self.crowd.ask(person, "GET", path, timeout_seconds=_ONE_TRY_SECONDS)
        return status == OK

    async def all_answer(self) -> bool:
        return all(await asyncio.gather(*(self.answers(each) for each in STORED)))

    async def _is_ready(self, service: str) -> bool:
        try:
            url = f"http://127.0.0.1:{self.stack.own_port(service)}/health/ready"
            async with httpx.AsyncClient(timeout=_ONE_TRY_SECONDS, trust_env=False) as client:
                return (await client.get(url)).status_code == OK
        except (httpx.HTTPError, OSError, AssertionError):
            return False

    async def sells(self) -> bool:
        """Whether a ticket listed now can be reserved: its event has passed the bus."""
        ticket = await self.crowd.list(self.seller, is_public=False)
        order_id = await self.crowd.order(self.buyer, ticket) if ticket is not None else None
        if order_id is not None:
            await self.crowd.cancel(self.buyer, order_id)
        return order_id is not None

    async def buys(self) -> bool:
        """Whether a ticket listed now can be paid for: the provider answers, too."""
        ticket = await self.crowd.list(self.seller, is_public=False)
        order_id = await self.crowd.order(self.buyer, ticket) if ticket is not None else None
        return order_id is not None and await self.crowd.pay(self.buyer, order_id, GOOD_CARD) == "done"

    async def subscriptions(self, service: str, since: datetime) -> bool:
        """Whether a service has taken in an event since then, and published what it told before."""
        try:
            async with self.stack.connected(service) as connection:
                heard = await connection.fetchval("SELECT max(received_at) > $1 FROM inbox", since)
                waiting = await connection.fetchval(
                    "SELECT count(*) FROM outbox WHERE stream_sequence IS NULL AND recorded_at < $1", since
                )
        except AWAY:
            return False
        return bool(heard) and not waiting

    async def now(self) -> datetime:
        """Return the databases' time."""
        while True:
            try:
                async with self.stack.connected("orders") as connection:
                    now: datetime = await connection.fetchval("SELECT instant()")
                    return now
            except AWAY:
                await asyncio.sleep(_AGAIN_SECONDS)

    async def converged(self, told_before: datetime) -> bool:
        """Whether everything told before then is on the bus once more, and taken in by everyone who hears it."""
        try:
            async with asyncio.timeout(10):
                return await self._is_on_the_bus(told_before) and await self._is_taken_in(told_before)
        except AWAY:
            return False

    async def _is_on_the_bus(self, told_before: datetime) -> bool:
        async with self.stack.bus() as bus:
            for service in registry.SERVICES:
                if not service.publications:
                    continue
                answer: dict[str, Any] = await bus.request(f"$JS.API.STREAM.INFO.{service.name}", {})
                if "state" not in answer:
                    return False
                async with self.stack.connected(service.name) as connection:
                    told = await connection.fetchval("SELECT count(*) FROM outbox WHERE recorded_at < $1", told_before)
                    waiting = await connection.fetchval(
                        "SELECT count(*) FROM outbox WHERE recorded_at < $1 AND stream_sequence IS NULL", told_before
                    )
                if waiting or answer["state"]["messages"] < told:
                    return False
        return True

    async def _is_taken_in(self, told_before: datetime) -> bool:
        told: dict[str, list[UUID]] = {}
        for service in STORED:
            async with self.stack.connected(service) as connection:
                rows = await connection.fetch("SELECT id, type FROM outbox WHERE recorded_at < $1", told_before)
            for row in rows:
                told.setdefault(row["type"], []).append(row["id"])
        for hearer in registry.SERVICES:
            if not hearer.has_database:
                continue
            wanted = [each for event in hearer.subscriptions for each in told.get(event.__name__, ())]
            async with self.stack.connected(hearer.name) as connection:
                if await connection.fetchval("SELECT count(*) FROM inbox WHERE id = ANY($1)", wanted) < len(wanted):
                    return False
        return True
