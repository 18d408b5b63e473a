"""A marketplace at rest, and copies of its databases that a test may damage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from uuid import UUID

import asyncpg

from admitone import registry
from admitone.invariants import ClientRecord, Finding, ProviderIntent, Sources, check
from admitone.local.postgres import Postgres
from proof.clients import HttpClient, http_client
from proof.endings import reserved
from proof.marketplace import running_marketplace
from proof.people import GOOD_CARD, STRAIGHT, Crowd


@dataclass(frozen=True)
class Deal:
    """A ticket of alice's, and bob's order for it."""

    ticket: UUID
    order: UUID


@dataclass(frozen=True)
class Trade:
    """Alice listed three tickets; bob bought one, holds one, and cancelled one. The history is their clients'."""

    alice: UUID
    bob: UUID
    sold: Deal
    held: Deal
    cancelled: Deal
    history: Sequence[ClientRecord]
    intents: Sequence[ProviderIntent]


@dataclass(frozen=True)
class Rest:
    """The databases after the trade, with nothing running but PostgreSQL."""

    postgres: Postgres
    trade: Trade


async def trade(folder: Path) -> Trade:
    async with running_marketplace(folder=folder) as marketplace, http_client(marketplace.url) as http:
        crowd = Crowd(HttpClient(http), Random(1), STRAIGHT, hold_seconds=900)
        alice, bob = await crowd.sign_up(), await crowd.sign_up()

        async def deal() -> Deal:
            ticket = await alice.list_ticket()
            assert ticket is not None
            return Deal(ticket.id, await reserved(bob, ticket))

        sold, held, cancelled = await deal(), await deal(), await deal()
        assert (await bob.pay(sold.order, GOOD_CARD)).is_done
        assert await bob.cancel(cancelled.order)
        findings = await marketplace.check(crowd.history.records)
        assert [each for each in findings if not each.holds] == []
        list_intents = marketplace.sources.list_intents
        assert list_intents is not None
        intents = await list_intents(await marketplace.value("payments", "SELECT id FROM installation"))
        return Trade(alice.id, bob.id, sold, held, cancelled, crowd.history.records, intents)


@dataclass
class Copies:
    """Copies of the databases, and what the provider lists."""

    trade: Trade
    urls: Mapping[str, str]
    intents: Sequence[ProviderIntent]

    async def damage(self, service: str, sql: str, *arguments: object) -> None:
        """Change rows without any trigger noticing."""
        connection = await asyncpg.connect(self.urls[service])
        try:
            await connection.execute("SET session_replication_role = replica")
            await connection.execute(sql, *arguments)
        finally:
            await connection.close()

    async def list_intents(self, _installation: UUID) -> Sequence[ProviderIntent]:
        return self.intents

    async def check(self, history: Sequence[ClientRecord] = ()) -> dict[str, Finding]:
        sources = Sources(self.urls, registry.SERVICES, self.list_intents)
        return {each.id: each for each in await check(sources, history=history, grace_seconds=0)}

    async def violated(self, history: Sequence[ClientRecord] = ()) -> set[str]:
        return {each.id for each in (await self.check(history)).values() if not each.holds}
