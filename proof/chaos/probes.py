"""Probes: small purchases and requests, tried again until one succeeds, which time the recovery from a fault."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import httpx
import nats.errors

from admitone import registry
from admitone.kernel.database.pool import UNREACHABLE as DATABASE_UNREACHABLE
from admitone.kernel.http.operations import OK
from admitone.kernel.messaging.bus import UNREACHABLE as BUS_UNREACHABLE
from proof.chaos.stack import TWIN, Stack
from proof.clients import NO_HEADERS
from proof.marketplace import STORED, is_ready
from proof.people import GOOD_CARD, Crowd, Person, Ticket
from proof.waiting import until

UNREACHABLE: Final = (
    *DATABASE_UNREACHABLE, *BUS_UNREACHABLE, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, nats.errors.Error,
)  # fmt: skip
_AGAIN_SECONDS: Final = 0.05
_CONVERGED_AGAIN_SECONDS: Final = 0.5
_ONE_TRY_SECONDS: Final = 1.0
_GIVE_UP_SECONDS: Final = 150.0

_PATHS: Final = {
    "auth": "/api/users/currentuser",
    "tickets": "/api/tickets/{ticket}",
    "orders": "/api/orders/{order}",
    "payments": "/api/payments?orderId={order}",
    "web": "/auth/signin",
}
_UNPUBLISHED: Final = "SELECT count(*) FROM outbox WHERE stream_sequence IS NULL AND recorded_at < $1"


@dataclass
class Probes:
    """Two people who try one thing after another."""

    stack: Stack
    seller: Person
    buyer: Person
    ticket: Ticket
    order_id: UUID

    @classmethod
    async def start(cls, stack: Stack, crowd: Crowd) -> "Probes":
        seller, buyer = await crowd.sign_up(), await crowd.sign_up()
        ticket = await seller.list_ticket()
        assert ticket is not None
        [order_id] = await buyer.reserve(ticket)
        return cls(stack, seller, buyer, ticket, order_id)

    async def until(self, works: Callable[[], Awaitable[bool]]) -> None:
        """Wait until it works. Raises NotInTime."""
        await until(works, "it works again", _GIVE_UP_SECONDS, again_seconds=_AGAIN_SECONDS)

    # Whether a part of the marketplace works again that had a fault; each gets what the fault was of, such as a service
    # or the link `tickets/nats`, and when it ended, by the databases' clock.

    async def responds(self, target: str, _since: datetime | None = None) -> bool:
        """Whether a service serves people; of expiration, which serves nobody, whether it is ready."""
        # The twin serves nobody: its service must respond.
        service = TWIN if target == "twin" else target.partition("/")[0]
        if service == "expiration":
            return await self._is_ready(service)
        path = _PATHS[service].format(ticket=self.ticket.id, order=self.order_id)
        session = "" if service == "web" else self.buyer.session
        try:
            async with asyncio.timeout(_ONE_TRY_SECONDS):
                return (await self.buyer.client.request("GET", path, session, None, NO_HEADERS)).status == OK
        except TimeoutError:
            return False

    async def all_respond(self, _target: str, _since: datetime) -> bool:
        return all(await asyncio.gather(*(self.responds(each) for each in STORED)))

    async def _is_ready(self, service: str) -> bool:
        try:
            url = f"http://127.0.0.1:{self.stack.own_port(service)}"
            async with httpx.AsyncClient(base_url=url, timeout=_ONE_TRY_SECONDS, trust_env=False) as client:
                return await is_ready(client)
        except (OSError, KeyError):
            return False

    async def _new_order(self) -> UUID | None:
        ticket = await self.seller.list_ticket()
        return next(iter(await self.buyer.reserve(ticket)), None) if ticket is not None else None

    async def can_reserve(self, _target: str, _since: datetime) -> bool:
        """Whether a ticket listed now can be reserved: its event has passed the bus."""
        order_id = await self._new_order()
        if order_id is not None:
            await self.buyer.cancel(order_id)
        return order_id is not None

    async def can_buy(self, _target: str, _since: datetime) -> bool:
        """Whether a ticket listed now can be paid for: the provider responds, too."""
        order_id = await self._new_order()
        return order_id is not None and (await self.buyer.pay(order_id, GOOD_CARD)).is_done

    async def has_consumed(self, target: str, since: datetime) -> bool:
        """Whether a service has consumed an event since then, and published what it wrote before."""
        try:
            async with self.stack.marketplace.connected(target.partition("/")[0]) as connection:
                consumed = await connection.fetchval("SELECT max(received_at) > $1 FROM inbox", since)
                waiting = await connection.fetchval(_UNPUBLISHED, since)
        except UNREACHABLE:
            return False
        return bool(consumed) and not waiting

    async def now(self) -> datetime:
        """Return the databases' time."""
        while True:
            try:
                now: datetime = await self.stack.marketplace.value("orders", "SELECT instant()")
            except UNREACHABLE:
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return now

    async def has_converged(self, _target: str, before: datetime) -> bool:
        """Whether everything published before then is on the bus and consumed."""
        await asyncio.sleep(_CONVERGED_AGAIN_SECONDS)  # this probe reads every event there is
        try:
            async with asyncio.timeout(10):
                return await self._is_on_the_bus(before) and await self._is_consumed(before)
        except UNREACHABLE:
            return False

    async def _is_on_the_bus(self, before: datetime) -> bool:
        async with self.stack.bus() as bus:
            for service in registry.SERVICES:
                if not service.publications:
                    continue
                state = (await bus.jetstream.stream_info(service.name)).state
                async with self.stack.marketplace.connected(service.name) as connection:
                    written = await connection.fetchval("SELECT count(*) FROM outbox WHERE recorded_at < $1", before)
                    waiting = await connection.fetchval(_UNPUBLISHED, before)
                if waiting or state.messages < written:
                    return False
        return True

    async def _is_consumed(self, before: datetime) -> bool:
        published: dict[str, list[UUID]] = {}
        for service in STORED:
            rows = await self.stack.marketplace.rows(
                service, "SELECT id, type FROM outbox WHERE recorded_at < $1", before
            )
            for row in rows:
                published.setdefault(row["type"], []).append(row["id"])
        for consumer in registry.SERVICES:
            if consumer.has_database:
                wanted = [each for event in consumer.subscriptions for each in published.get(event.__name__, ())]
                sql = "SELECT count(*) FROM inbox WHERE id = ANY($1)"
                if await self.stack.marketplace.value(consumer.name, sql, wanted) < len(wanted):
                    return False
        return True
