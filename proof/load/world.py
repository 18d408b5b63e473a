"""A marketplace of the benchmark's own: started on free ports with fresh data, filled, asked, stopped."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from admitone.auth.tokens import SigningKeys, new_signing_key
from admitone.kernel import clock
from admitone.kernel.http.sessions import SignedInUser
from admitone.kernel.ids import new_id
from admitone.kernel.settings import Settings
from admitone.local.installation import found_running
from admitone.local.server import free_port

FIRST_TICKET = 1 << 32
ALICE = UUID("00000000-0000-7000-8000-00000000a11c")

_LIST_TICKETS = """
INSERT INTO ticket (id, user_id, title, price_cents, currency, event_date, venue, words, shown)
SELECT id, $1, title, price_cents, 'usd', instant() + make_interval(days => (n % 300)::integer), venue,
    to_tsvector('simple', title || ' ' || venue), ''
FROM (
    SELECT n,
        ('00000000-0000-7000-8000-' || lpad(to_hex($2::bigint + n), 12, '0'))::uuid AS id,
        (ARRAY['Fado night', 'Rainbow Chasers', 'Midsummer Quartet', 'Harbour derby', 'The Winter Play'])[n % 5 + 1]
            || ', company c' || n % 100 || ', seat ' || $2::bigint + n AS title,
        500 + (n * 7919) % 20000 AS price_cents,
        (ARRAY['Lisbon', 'Old Vic', 'Harbour Arena', 'Town Hall'])[n % 4 + 1] AS venue
    FROM generate_series(0, $3::bigint - 1) AS n
) AS made
"""
_LIST_REPLICAS = """
INSERT INTO ticket (id, version, title, price_cents, currency, seller_id, status)
SELECT ('00000000-0000-7000-8000-' || lpad(to_hex($2::bigint + n), 12, '0'))::uuid, 0, 'Seat ' || n,
    500 + (n * 7919) % 20000, 'usd', $1, 'available'
FROM generate_series(0, $3::bigint - 1) AS n
"""
# What was sold before: $3 tickets, numbered from $2. Each buyer has ten, but for $4, who has the first 40.
_SOLD_TICKETS = """
INSERT INTO ticket (id, version, user_id, title, price_cents, currency, status, order_id, words, shown)
SELECT id, 2, $1, 'Seat ' || n, 2000, 'usd', 'sold', id, to_tsvector('simple', 'Seat ' || n), '{}'
FROM (
    SELECT n, ('00000000-0000-7000-8000-' || lpad(to_hex($2::bigint + n), 12, '0'))::uuid AS id
    FROM generate_series(0, $3::bigint - 1) AS n
) AS made
"""
_SOLD_REPLICAS = """
INSERT INTO ticket (id, version, title, price_cents, currency, seller_id, status, order_id)
SELECT id, 2, 'Seat ' || n, 2000, 'usd', $1, 'sold', id
FROM (
    SELECT n, ('00000000-0000-7000-8000-' || lpad(to_hex($2::bigint + n), 12, '0'))::uuid AS id
    FROM generate_series(0, $3::bigint - 1) AS n
) AS made
"""
_ORDERS = """
INSERT INTO orders (id, version, status, user_id, ticket_id, ticket_version, title, price_cents, currency, expires_at,
    payment_id)
SELECT id, 2, 'complete',
    CASE WHEN n < 40 THEN $4::uuid ELSE ('00000000-0000-7000-9000-' || lpad(to_hex(n / 10), 12, '0'))::uuid END,
    id, 0, 'Seat ' || n, 2000, 'usd', instant() + interval '15 minutes', id
FROM (
    SELECT n, ('00000000-0000-7000-8000-' || lpad(to_hex($2::bigint + n), 12, '0'))::uuid AS id
    FROM generate_series(0, $3::bigint - 1) AS n
) AS made
WHERE $1::uuid IS NOT NULL
"""


def ticket_id(number: int) -> UUID:
    """Return the id of the filled ticket of that number."""
    return UUID(f"00000000-0000-7000-8000-{number:012x}")


@dataclass(frozen=True)
class Used:
    """What a process uses, or several together."""

    memory_mb: float = 0.0
    cpu_seconds: float = 0.0
    descriptors: int = 0

    @classmethod
    def by(cls, process: int) -> "Used":
        """Ask the kernel about one process. Source: proc(5), stat and fd."""
        folder = Path(f"/proc/{process}")
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        return cls(
            memory_mb=int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
            # With that of its children that have ended: PostgreSQL has many.
            cpu_seconds=sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"),
            descriptors=sum(1 for _ in (folder / "fd").iterdir()),
        )

    def __add__(self, other: "Used") -> "Used":
        return Used(
            self.memory_mb + other.memory_mb,
            self.cpu_seconds + other.cpu_seconds,
            self.descriptors + other.descriptors,
        )


class World:
    """A running marketplace, its port, its databases and the key that signs its sessions."""

    def __init__(
        self, settings: Settings, key: str, process: "subprocess.Popen[bytes]", started_seconds: float
    ) -> None:
        self.started_seconds = started_seconds
        self.settings = settings
        self.port = settings.port
        self.process = process
        self._keys = SigningKeys.from_pem(key)
        self._next_ticket = FIRST_TICKET

    def token(self) -> str:
        """Return the session of somebody new."""
        return self.token_of(new_id())

    def token_of(self, person_id: UUID) -> str:
        now = clock.now()
        expires_at = (now + timedelta(hours=4)).timestamp()
        person = SignedInUser(id=person_id, email="bench@example.com", session_id=new_id(), expires_at=expires_at)
        return self._keys.sign(person, now)

    async def fill(self, tickets: int) -> list[UUID]:
        """Put tickets on sale, in tickets' database and in orders' replica, as if their events had passed."""
        first, self._next_ticket = self._next_ticket, self._next_ticket + tickets
        await asyncio.gather(
            self._run("tickets", _LIST_TICKETS, ALICE, first, tickets),
            self._run("orders", _LIST_REPLICAS, ALICE, first, tickets),
        )
        for service in ("tickets", "orders"):
            await self._run(service, "VACUUM ANALYZE ticket")
        return [ticket_id(first + number) for number in range(tickets)]

    async def fill_sold(self, tickets: int, buyer: UUID) -> None:
        """Add tickets that were sold before, with their orders; each call gives `buyer` 40 of them."""
        first, self._next_ticket = self._next_ticket, self._next_ticket + tickets
        await self._run("tickets", "ALTER TABLE ticket DISABLE TRIGGER guard_ticket")
        await asyncio.gather(
            self._run("tickets", _SOLD_TICKETS, ALICE, first, tickets),
            self._run("orders", _SOLD_REPLICAS, ALICE, first, tickets),
            self._run("orders", _ORDERS, ALICE, first, tickets, buyer),
        )
        await self._run("tickets", "ALTER TABLE ticket ENABLE TRIGGER guard_ticket")
        await self._run("orders", "VACUUM ANALYZE orders")

    @property
    def superuser_url(self) -> str:
        """The address of the embedded server's superuser, from the data folder's secrets."""
        port = urlsplit(self.settings.migrator_urls["orders"]).port
        password = (Path(self.settings.data) / "secrets" / "database_superuser").read_text().strip()
        return f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"

    async def written(self) -> None:
        """Let PostgreSQL write to its disk what was filled, so that it need not do so while something is measured."""
        connection = await asyncpg.connect(self.superuser_url)
        try:
            await connection.execute("CHECKPOINT", timeout=600)
        finally:
            await connection.close()

    async def _run(self, service: str, sql: str, *arguments: Any) -> None:
        connection = await asyncpg.connect(self.settings.migrator_urls[service])
        try:
            await connection.execute(sql, *arguments, timeout=3600)
        finally:
            await connection.close()

    async def change(self, service: str, sql: str) -> None:
        """Change something about a service's tables, as their owner."""
        await self._run(service, sql)

    async def value(self, service: str, sql: str, *arguments: Any) -> Any:
        """Return one value from a service's database."""
        connection = await asyncpg.connect(self.settings.migrator_urls[service])
        try:
            return await connection.fetchval(sql, *arguments)
        finally:
            await connection.close()

    async def rows(self, service: str, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Return rows from a service's database."""
        connection = await asyncpg.connect(self.settings.migrator_urls[service])
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    async def settled(self, seconds: float = 120.0) -> float:
        """Wait until every outbox is published and every order's lock has reached tickets; return how long it took."""
        began = time.monotonic()
        while True:
            waiting = 0
            for service in set(self.settings.migrator_urls) - {"sandbox"}:
                waiting += await self.value(service, "SELECT count(*) FROM outbox WHERE stream_sequence IS NULL")
            if waiting == 0 and await self._is_converged():
                return time.monotonic() - began
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"{waiting} events are still unpublished after {seconds} s")
            await asyncio.sleep(0.05)

    async def _is_converged(self) -> bool:
        live = "SELECT count(*) FROM orders WHERE status IN ('created', 'awaiting:payment')"
        locked = "SELECT count(*) FROM ticket WHERE status = 'reserved'"
        held = await self.value("orders", live)
        return bool(held == await self.value("tickets", locked) == await self.value("orders", locked))

    def used(self) -> dict[str, "Used"]:
        """Return what each kind of process uses, by what it runs."""
        found: dict[str, Used] = {}
        for process, kind in self._processes():
            try:
                found[kind] = found.get(kind, Used()) + Used.by(process)
            except OSError:
                continue  # it ended meanwhile
        return found

    def memory_mb(self) -> dict[str, float]:
        """Return the resident memory of each kind of process."""
        return {name: used.memory_mb for name, used in self.used().items()}

    def cpu_seconds(self) -> dict[str, float]:
        """Return the processor time each kind of process has used so far."""
        return {name: used.cpu_seconds for name, used in self.used().items()}

    def _processes(self) -> Iterator[tuple[int, str]]:
        """Yield (pid, what it runs) of the marketplace's process and all below it."""
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
        wanted, found = {self.process.pid}, [self.process.pid]
        while True:
            more = [each for each, parent in parents.items() if parent in wanted and each not in wanted]
            if not more:
                break
            wanted |= set(more)
            found += more
        for process in found:
            try:
                yield process, "admitone" if process == self.process.pid else _kind_of(process)
            except OSError:
                continue


def _kind_of(process: int) -> str:
    """Return what a process runs: postgres, nats, sandbox, or its command line where that is something else."""
    command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    # PostgreSQL's come first: their titles name a database, which may be the sandbox's.
    return next((kind for kind in ("postgres", "nats", "sandbox") if kind in command), command)


@contextmanager
def running_world(*arguments: str, **environment: str) -> Iterator[World]:
    """Start `admitone up` with fresh data and stop it at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="admitone-bench-", ignore_cleanup_errors=True) as data,
        started_world(Path(data), *arguments, **environment) as world,
    ):
        yield world


@contextmanager
def started_world(data: Path, *arguments: str, **environment: str) -> Iterator[World]:
    """Start `admitone up` with the data of that folder and stop it at the end."""
    key, port = new_signing_key(), free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "admitone", "up", *arguments],
        env={
            **os.environ,
            "ADMITONE_DATA": str(data),
            "ADMITONE_PORT": str(port),
            "ADMITONE_SIGNING_KEY": key,
            "ADMITONE_LOG_LEVEL": "WARNING",
            **environment,
        },
        stdout=subprocess.DEVNULL,
    )
    try:
        began = time.monotonic()
        _wait_until_ready(port, process)
        started_seconds = time.monotonic() - began
        settings = found_running(data)
        assert settings is not None
        yield World(settings, key, process, started_seconds)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def _wait_until_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the marketplace ended while it started"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    raise TimeoutError("the marketplace is not ready after 60 s")


def tokens(world: World, count: int) -> Sequence[str]:
    """Return the sessions of that many new people."""
    return [world.token() for _ in range(count)]
