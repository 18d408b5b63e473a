"""Plain SQL migrations, each applied once, in order, under a lock."""

import asyncio
import logging
from importlib import resources
from typing import Any, Final

import asyncpg

from admitone.kernel.database.pool import Database, connecting

log = logging.getLogger(__name__)

_LOCK: Final = 0x0AD317  # arbitrary, but used for nothing else
_POLL_SECONDS: Final = 0.5
_LOCK_SECONDS_MAX: Final = 5
_TRIES_MAX: Final = 24
_OUTSIDE: Final = "-- Outside a transaction"


def known(service: str) -> list[tuple[str, str]]:
    """Return (name, SQL) of every migration of a service's database, in order: the kernel's tables, then its own."""
    package = resources.files("admitone")
    found: list[tuple[str, str]] = []
    for owner, folder in (("kernel", package / "kernel/database/schema"), (service, package / service / "migrations")):
        if folder.is_dir():  # a service may need no tables of its own
            files = sorted(
                (file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name
            )
            found += [(f"{owner}/{file.name}", file.read_text()) for file in files]
    return found


async def missing(service: str, database: Database) -> list[str]:
    """Return the migrations this version needs that were not applied."""
    names = [name for name, _ in known(service)]
    if not await database.fetchval("SELECT to_regclass('applied_migration') IS NOT NULL"):
        return names
    applied = {row["name"] for row in await database.fetch("SELECT name FROM applied_migration")}
    return [name for name in names if name not in applied]


async def migrate(url: str, service: str, variable: str = "MIGRATOR_URL") -> list[str]:
    """Apply what is missing to the database at `url` (the migrator's); return the names of what was applied.

    Each file is one transaction, and one that cannot lock a table within five seconds is rolled back and tried again:
    otherwise every request to the table would queue behind it. A file that begins with `-- Outside a transaction` has
    one statement that PostgreSQL refuses inside one, such as CREATE INDEX CONCURRENTLY.

    Concurrent runs are safe: the second waits, then finds nothing to do. Raises DatabaseUnreachable, or SettingsError
    about the `variable` with the URL.
    """
    with connecting(service, url, variable):
        connection = await asyncpg.connect(url, server_settings={"lock_timeout": f"{_LOCK_SECONDS_MAX}s"})
    try:
        # Polling: a session that waits for the lock inside a statement would hold up CREATE INDEX CONCURRENTLY.
        while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        role = await connection.fetchval(
            "SELECT rolname FROM pg_roles WHERE rolname = $1 AND rolname <> current_user", service
        )
        await connection.execute("SELECT set_config('admitone.service_role', $1, false)", role or "")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS applied_migration "
            "(name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        applied: list[str] = []
        for name, sql in await asyncio.to_thread(known, service):
            if not await connection.fetchval("SELECT true FROM applied_migration WHERE name = $1", name):
                await _apply(connection, name, sql)
                applied.append(name)
        return applied
    finally:
        await connection.close()


async def _apply(connection: "asyncpg.Connection[Any]", name: str, sql: str) -> None:
    for _ in range(_TRIES_MAX - 1):
        try:
            return await _apply_once(connection, name, sql)
        except asyncpg.LockNotAvailableError:
            log.warning("a table is in use; the migration is tried again", extra={"migration": name})
            await asyncio.sleep(_POLL_SECONDS)
    return await _apply_once(connection, name, sql)


async def _apply_once(connection: "asyncpg.Connection[Any]", name: str, sql: str) -> None:
    applied = "INSERT INTO applied_migration (name) VALUES ($1)"
    if not sql.startswith(_OUTSIDE):
        async with connection.transaction():
            await connection.execute(sql)
            await connection.execute(applied, name)
        return
    # An attempt that failed left its index behind, not valid; nothing but migrations creates indexes.
    for row in await connection.fetch("SELECT indexrelid::regclass::text AS name FROM pg_index WHERE NOT indisvalid"):
        await connection.execute(f"DROP INDEX CONCURRENTLY {row['name']}")
    await connection.execute(sql)
    await connection.execute(applied, name)
