"""Checks the invariants over a running system, at any instant or once it has settled."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import asyncpg

from admitone.invariants.findings import INVARIANTS, Finding, Invariant
from admitone.invariants.provider import STRIPE_URL, ListIntents, provider_at
from admitone.invariants.snapshot import ClientRecord, ProviderIntent, Snapshot
from admitone.kernel import clock
from admitone.kernel.database.pool import connecting
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings
from admitone.payments.resources import PaymentSettings

GRACE_SECONDS: Final = 15.0
_CHECK_AGAIN_SECONDS: Final = 0.5
_READ_SECONDS_MAX: Final = 120.0


@dataclass(frozen=True)
class Sources:
    """What is read: each service's database, and the provider's list if there is a key for it."""

    database_urls: Mapping[str, str]
    services: Sequence[Service]
    list_intents: ListIntents | None = None

    @classmethod
    def of(cls, settings: Settings, services: Sequence[Service]) -> "Sources":
        """Return the sources the settings name. Raises SettingsError if a database is not named."""
        urls = {each.name: settings.database_url(each.name) for each in services if each.has_database}
        stripe = settings.read(PaymentSettings)
        list_intents = provider_at(stripe.stripe_url or STRIPE_URL, stripe.stripe_secret_key)
        return cls(urls, services, list_intents if stripe.stripe_secret_key else None)


async def check(
    sources: Sources, *, history: Sequence[ClientRecord] = (), grace_seconds: float = GRACE_SECONDS
) -> list[Finding]:
    """Check every invariant, in order.

    Takes one snapshot if every invariant holds, and more for up to `grace_seconds` while events are in progress or
    something is broken. Safe on a running system: it only reads.
    """
    findings = await _check_once(sources, history)
    deadline = clock.monotonic_seconds() + grace_seconds
    settling = {each.id for each in INVARIANTS if each.settles}
    while any(each.id in settling and not each.holds for each in findings) and clock.monotonic_seconds() < deadline:
        await asyncio.sleep(_CHECK_AGAIN_SECONDS)
        findings = [
            replace(
                now,
                violations=before.violations & now.violations
                if now.id in settling
                else before.violations | now.violations,
            )
            for before, now in zip(findings, await _check_once(sources, history), strict=True)
        ]
    return findings


async def check_always(sources: Sources) -> list[Finding]:
    """Check, in one snapshot, the invariants that hold at every instant, even while parts of the system are broken."""
    async with _snapshot(sources, ()) as snapshot:
        return await _findings(snapshot, [each for each in INVARIANTS if not each.settles])


async def check_connections(
    connections: Mapping[str, "asyncpg.Connection[Any]"],
    services: Sequence[Service],
    history: Sequence[ClientRecord],
    intents: Sequence[ProviderIntent] | None,
) -> list[Finding]:
    """Check every invariant once, over the caller's connections."""
    snapshot = Snapshot(connections, services, history, intents)
    await snapshot.load()
    return await _findings(snapshot)


async def _check_once(sources: Sources, history: Sequence[ClientRecord]) -> list[Finding]:
    async with _snapshot(sources, history) as snapshot:
        return await _findings(snapshot)


async def _findings(snapshot: Snapshot, invariants: Sequence[Invariant] = INVARIANTS) -> list[Finding]:
    findings = []
    for each in invariants:
        checked, violations = await each.check(snapshot)
        findings.append(Finding(each.id, each.description, checked, frozenset(violations)))
    return findings


@asynccontextmanager
async def _snapshot(sources: Sources, history: Sequence[ClientRecord]) -> AsyncIterator[Snapshot]:
    intents: Sequence[ProviderIntent] | None = None
    async with AsyncExitStack() as stack:
        if sources.list_intents is not None:
            payments = await stack.enter_async_context(_connected("payments", sources.database_urls["payments"]))
            intents = await sources.list_intents(await payments.fetchval("SELECT id FROM installation"))
        connections = {}
        for service, url in sources.database_urls.items():
            connection = await stack.enter_async_context(_connected(service, url))
            await stack.enter_async_context(connection.transaction(isolation="repeatable_read", readonly=True))
            connections[service] = connection
        snapshot = Snapshot(connections, sources.services, history, intents)
        await snapshot.load()
        yield snapshot


@asynccontextmanager
async def _connected(service: str, url: str) -> "AsyncIterator[asyncpg.Connection[Any]]":
    with connecting(service, url):
        connection = await asyncpg.connect(
            url,
            command_timeout=_READ_SECONDS_MAX,
            # Longer than a request may take: this reads everything.
            server_settings={
                "application_name": "check",
                "statement_timeout": str(int(_READ_SECONDS_MAX * 1000)),
                "idle_in_transaction_session_timeout": "0",
            },
        )
    try:
        yield connection
    finally:
        await connection.close()
