"""The marketplace to be proven: one `admitone up` as a child process, on a free port and a data folder of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import httpx

from admitone import registry
from admitone.auth.tokens import SigningKeys, new_signing_key
from admitone.invariants import IN_PROGRESS, ClientRecord, Finding, Sources, check
from admitone.kernel.ids import new_id
from admitone.kernel.settings import Settings
from admitone.local.installation import running_settings
from admitone.local.server import LOOPBACK, free_port
from proof.clients import HttpClient, http_client, session_of
from proof.history import ClientHistory
from proof.people import Person
from proof.waiting import until

SERVICES: Final = tuple(each.name for each in registry.SERVICES)
STORED: Final = tuple(each.name for each in registry.SERVICES if each.has_database)

_READY_SECONDS_MAX: Final = 90.0
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

Value = Callable[[str, str], Awaitable[Any]]
"""Reads one value from a service's database: (service, SQL)."""


class Marketplace:
    """`admitone up` on one data folder; it may be killed and started again.

    Connections made here are those of each database's owner, without any detour.
    """

    def __init__(self, folder: Path, *arguments: str, module: str = "admitone", environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.started_seconds = 0.0
        self._command = [sys.executable, "-m", module, *arguments]
        self._key = new_signing_key()
        self._signing_keys = SigningKeys.from_pem(self._key)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ADMITONE_", "STRIPE_"))}
        self.environment = inherited | {
            "ADMITONE_DATA": str(folder),
            "ADMITONE_PORT": str(self.port),
            "ADMITONE_SIGNING_KEY": self._key,
            "ADMITONE_LOG_LEVEL": "WARNING",
            **environment,
        }
        self._child: subprocess.Popen[bytes] | None = None
        self._settings: Settings | None = None

    # Start and stop.

    async def start(self) -> None:
        """Start, and return once every service is ready."""
        output, nothing, began = self.folder / "up.log", subprocess.DEVNULL, time.monotonic()
        with output.open("ab") as out:
            self._child = subprocess.Popen(
                self._command, env=self.environment, stdin=nothing, stdout=out, stderr=out, start_new_session=True
            )

        async def everything_is_ready() -> bool:
            assert not self.has_ended, output.read_text()[-4000:]
            return await is_ready(client)

        async with httpx.AsyncClient(base_url=self.url, timeout=3, trust_env=False) as client:
            await until(everything_is_ready, "the marketplace is ready", _READY_SECONDS_MAX, again_seconds=0.02)
        self.started_seconds = time.monotonic() - began
        self._settings = running_settings(self.folder)

    @property
    def has_ended(self) -> bool:
        return self._child is None or self._child.poll() is not None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def kill(self) -> None:
        """Kill the process that watches over the others; they end a moment later."""
        os.kill(self.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """Stop everything, the servers last."""
        if self._child is not None:
            if not self.has_ended:
                self._child.send_signal(signal.SIGINT)
            await asyncio.to_thread(self._child.wait, 60)

    # People.

    def token(self, user_id: UUID) -> str:
        return session_of(self._signing_keys, user_id)

    @asynccontextmanager
    async def people(self, count: int) -> AsyncIterator[Sequence[Person]]:
        """Yield people who are signed in, over one HTTP client, with one history."""
        history, users = ClientHistory(), [new_id() for _ in range(count)]
        async with http_client(self.url) as http:
            yield [Person(each, self.token(each), HttpClient(http), history) for each in users]

    # Databases.

    @property
    def settings(self) -> Settings:
        """The settings of another replica of the services, which signs sessions, too."""
        assert self._settings is not None, "the marketplace was not started"
        return self._settings.with_variables(ADMITONE_SIGNING_KEY=self._key)

    @property
    def superuser_url(self) -> str:
        """The server's superuser, who sees what no service may see."""
        port = urlsplit(self.settings.migrator_urls["orders"]).port
        password = (self.folder / "secrets" / "database_superuser").read_text().strip()
        return f"postgresql://postgres:{password}@{LOOPBACK}:{port}/postgres"

    @asynccontextmanager
    async def connected(self, name: str) -> "AsyncIterator[asyncpg.Connection[Any]]":
        """Connect to a service's database as its owner; `postgres` is for the superuser."""
        url = self.superuser_url if name == "postgres" else self.settings.migrator_urls[name]
        connection = await asyncpg.connect(url, timeout=5)
        try:
            yield connection
        finally:
            connection.terminate()

    async def execute(self, service: str, sql: str, *arguments: Any) -> None:
        async with self.connected(service) as connection:
            await connection.execute(sql, *arguments)

    async def rows(self, service: str, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self.connected(service) as connection:
            return await connection.fetch(sql, *arguments)

    async def value(self, service: str, sql: str, *arguments: Any) -> Any:
        rows = await self.rows(service, sql, *arguments)
        return rows[0][0] if rows else None

    # Invariants.

    @property
    def sources(self) -> Sources:
        """What the invariants are checked against: every database without detours, and the provider's books."""
        urls = {name: self.settings.migrator_urls[name] for name in STORED}
        return replace(Sources.of(self.settings, registry.SERVICES), database_urls=urls)

    async def check(self, history: Sequence[ClientRecord] = (), grace_seconds: float = 30.0) -> list[Finding]:
        return await check(self.sources, history=history, grace_seconds=grace_seconds)

    async def applied(self, seconds_max: float = 120.0) -> float:
        """Wait until every event is published and every lock has reached orders; return how long it took."""
        began = time.monotonic()
        await until(self._is_applied, "every event is applied", seconds_max)
        return time.monotonic() - began

    async def _is_applied(self) -> bool:
        for service in STORED:
            if await self.value(service, "SELECT 1 FROM outbox WHERE stream_sequence IS NULL LIMIT 1"):
                return False
        held = "SELECT count(*) FROM orders WHERE status IN ('created', 'awaiting:payment')"
        locked = "SELECT count(*) FROM ticket WHERE status = 'reserved'"
        counts = [await self.value(*each) for each in (("orders", held), ("tickets", locked), ("orders", locked))]
        return len(set(counts)) == 1


async def is_ready(client: httpx.AsyncClient) -> bool:
    """Whether every service at the client's address is ready."""
    try:
        return (await client.get("/health/ready")).is_success
    except httpx.TransportError:
        return False


async def settled(value: Value, seconds_max: float = 120.0) -> None:
    """Wait until nothing is in progress in any database: no order, payment, deadline or event."""

    async def nothing_is_in_progress() -> bool:
        return not any([await value(service, sql) for service, sql in IN_PROGRESS])

    await until(nothing_is_in_progress, "nothing is in progress", seconds_max)


def logged_errors(folder: Path) -> Counter[str]:
    """Count what the programs logged as an error, by message."""
    errors: Counter[str] = Counter()
    for file in (*folder.glob("processes/*.log*"), *folder.glob("*.log")):
        for line in file.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and str(entry.get("level")).upper() in {"ERROR", "CRITICAL"}:
                last = str(entry.get("exception", entry.get("error", ""))).strip().splitlines()[-1:]
                errors[f"{file.name}: {entry.get('message')} {' '.join(last)[:160]}"] += 1
    return errors


@asynccontextmanager
async def running_marketplace(
    *arguments: str, folder: Path | None = None, environment: Mapping[str, str] = _NOTHING
) -> AsyncIterator[Marketplace]:
    """Run `admitone up`, with fresh data unless a folder is given, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="admitone-proof-", ignore_cleanup_errors=True) as fresh:
        Path(fresh).chmod(0o711)  # PostgreSQL may have to run as another account, which passes through
        marketplace = Marketplace(folder or Path(fresh), "up", *arguments, environment=environment)
        try:
            await marketplace.start()
            yield marketplace
        finally:
            await marketplace.stop()
