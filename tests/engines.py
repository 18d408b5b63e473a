"""Real PostgreSQL and NATS for tests: one PostgreSQL a session, fresh databases and a fresh NATS a test."""

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from admitone.kernel.database.migrations import migrate
from admitone.local.nats import Nats, NatsUser
from admitone.local.postgres import Postgres
from admitone.local.provision import DatabaseAccount, provision

ADMIN = NatsUser("admin", "admin-password", is_admin=True)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder directly in the temporary one: PostgreSQL may have to run as `nobody`, who cannot enter pytest's."""
    path = Path(tempfile.mkdtemp(prefix="admitone-test-", dir=_memory()))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _memory() -> Path | None:
    """Where files are kept in memory, if there is room: a database is cloned there 20 times as fast."""
    memory = Path("/dev/shm")  # noqa: S108 – a folder of our own is made in it
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 2**31:
        return None
    return memory


# Without a log for a second server, a copied database is not logged at all.
_WITHOUT_STANDBY: Final = {"wal_level": "minimal", "max_wal_senders": "0"}


@contextmanager
def running_postgres(
    *, durable: bool = False, port: int | None = None, may_have_standby: bool = True
) -> Iterator[Postgres]:
    with short_folder() as folder:
        server = Postgres(folder / "postgres", "postgres-password", port=port, durable=durable)
        if not may_have_standby:
            server.settings |= _WITHOUT_STANDBY
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def running_nats(users: Sequence[NatsUser], *, durable: bool = False, port: int | None = None) -> Iterator[Nats]:
    """NATS with the given users and `admin`."""
    with short_folder() as folder:
        server = Nats(folder / "nats", [*users, ADMIN], port=port, durable=durable)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@dataclass(frozen=True)
class Fresh:
    """A database of one test."""

    name: str
    url: str
    """For the service: rows, no tables."""
    migrator_url: str
    """For its owner."""
    superuser_url: str


class Databases:
    """Fresh databases on one PostgreSQL, each cloned from its service's template, which is migrated once."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self._numbers = itertools.count(1)
        self._templates: dict[str, DatabaseAccount] = {}
        self._fresh: list[str] = []

    async def fresh(self, service: str) -> Fresh:
        """A database as `admitone migrate` leaves it, for the service of that name, dropped after the test."""
        template = self._templates.get(service) or await self._make_template(service)
        name = f"{service}_{next(self._numbers)}"
        await self._run(
            # Copying files takes a third of the time that logging every page takes.
            f"CREATE DATABASE {name} TEMPLATE {template.database} OWNER {template.migrator} STRATEGY FILE_COPY",
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
            f"GRANT CONNECT ON DATABASE {name} TO {service}",
        )
        self._fresh.append(name)
        return self._named(template, name)

    async def drop(self) -> None:
        fresh, self._fresh = self._fresh, []
        await self._run(*(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for name in fresh))

    async def _make_template(self, service: str) -> DatabaseAccount:
        template = DatabaseAccount(
            service, f"{service}-password", f"{service}-migrator-password", name=f"template_{service}"
        )
        await provision(self.postgres.url(), [template])
        await migrate(template.migrator_url(self.postgres.url()), service)
        self._templates[service] = template
        return template

    def _named(self, template: DatabaseAccount, name: str) -> Fresh:
        fresh = DatabaseAccount(template.service, template.password, template.migrator_password, name=name)
        server_url = self.postgres.url()
        return Fresh(
            name=name,
            url=fresh.url(server_url),
            migrator_url=fresh.migrator_url(server_url),
            superuser_url=urlsplit(server_url)._replace(path=f"/{name}").geturl(),
        )

    async def _run(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.postgres.url())
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Return when the condition holds; fail with `what` was waited for when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.01)
