"""Plain SQL migrations: the kernel's tables, then a service's own, each file once, in order, under a lock."""

import asyncio
from importlib import resources
from typing import Final

import asyncpg

_LOCK: Final = 0x0AD317  # any number that nothing else locks


def known(service: str) -> list[tuple[str, str]]:
    """Return (name, SQL) of every migration a service's database needs, in the order they run."""
    found: list[tuple[str, str]] = []
    for package in ("kernel", service):
        folder = resources.files("admitone") / package / "migrations"
        if not folder.is_dir():
            continue  # a service may do with the kernel's tables
        files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
        found += [(f"{package}/{file.name}", file.read_text()) for file in files]
    return found


async def migrate(url: str, service: str) -> list[str]:
    """Bring the database at `url` (the migrator's) up to date; return the names of what was applied.

    Each file is one transaction. Two runs at once are safe: the second waits, then finds nothing to do.
    """
    connection = await asyncpg.connect(url, server_settings={"lock_timeout": "5000"})
    try:
        role = await connection.fetchval(
            "SELECT rolname FROM pg_roles WHERE rolname = $1 AND rolname <> current_user", service
        )
        await connection.execute("SELECT set_config('admitone.service_role', $1, false)", role or "")
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS applied_migration "
            "(name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        applied: list[str] = []
        for name, sql in await asyncio.to_thread(known, service):
            if await connection.fetchval("SELECT true FROM applied_migration WHERE name = $1", name):
                continue
            async with connection.transaction():
                await connection.execute(sql)
                await connection.execute("INSERT INTO applied_migration (name) VALUES ($1)", name)
            applied.append(name)
        return applied
    finally:
        await connection.close()
