"""Migrations: concurrent runs wait for each other, and an index can be created while the table is written."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from admitone.kernel.database import migrations
from tests import engines
from tests.support import eventually

FIRST = ("0001.sql", "CREATE TABLE thing (id int)")
SLOW = ("0002.sql", "SELECT pg_sleep(0.2); CREATE TABLE another (id int)")
INDEX = ("0003.sql", "-- Outside a transaction\nCREATE UNIQUE INDEX CONCURRENTLY thing_id ON thing (id)")


@asynccontextmanager
async def connected(url: str) -> "AsyncIterator[asyncpg.Connection[Any]]":
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def url(databases: engines.Databases) -> str:
    return (await databases.fresh("expiration")).migrator_url


def wanted(monkeypatch: pytest.MonkeyPatch, *files: tuple[str, str]) -> None:
    monkeypatch.setattr(migrations, "known", lambda _service: list(files))


async def applied(url: str, *, times: int = 1) -> list[Sequence[str]]:
    """Return what so many concurrent runs have applied."""
    return await asyncio.gather(*(migrations.migrate(url, "expiration") for _ in range(times)))


async def waits_for_a_lock(connection: "asyncpg.Connection[Any]") -> bool:
    sql = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await connection.fetchval(sql))


async def test_concurrent_runs_apply_each_file_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted(monkeypatch, FIRST, SLOW, INDEX)
    outcomes = await applied(url, times=4)
    assert sorted(map(list, outcomes)) == [[], [], [], ["0001.sql", "0002.sql", "0003.sql"]]


async def test_a_run_waits_for_another_for_longer_than_for_a_table(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "_POLL_SECONDS", 0.01)
    wanted(monkeypatch, FIRST)
    async with connected(url) as first:
        await first.execute("SELECT pg_advisory_lock($1)", migrations._LOCK)
        run = asyncio.create_task(migrations.migrate(url, "expiration"))
        async with connected(url) as second:

            async def has_tried() -> bool:
                sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_try_advisory_lock%' AND pid <> $1"
                return bool(await second.fetchval(sql, second.get_server_pid()))

            await eventually(has_tried, "the second run waits")
        assert not run.done()
        await first.execute("SELECT pg_advisory_unlock($1)", migrations._LOCK)
        assert await run == ["0001.sql"]


async def test_a_migration_that_cannot_lock_its_table_is_tried_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(migrations, "_LOCK_SECONDS_MAX", 0.01)
    wanted(monkeypatch, FIRST)
    await applied(url)
    wanted(monkeypatch, FIRST, ("0002.sql", "ALTER TABLE thing ADD COLUMN text text"))
    monkeypatch.setattr(migrations, "_TRIES_MAX", 100_000)
    async with connected(url) as reader, connected(url) as watcher:
        transaction = reader.transaction()
        await transaction.start()
        await reader.fetch("SELECT * FROM thing")
        run = asyncio.create_task(migrations.migrate(url, "expiration"))
        await eventually(lambda: waits_for_a_lock(watcher), "the migration waits for the table")
        await transaction.rollback()
        assert await run == ["0002.sql"]


async def test_an_index_is_created_while_the_table_is_written_and_again_after_a_failure(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted(monkeypatch, FIRST)
    await applied(url)
    async with connected(url) as connection:
        await connection.execute("INSERT INTO thing VALUES (1), (1)")
        wanted(monkeypatch, FIRST, INDEX)
        with pytest.raises(asyncpg.UniqueViolationError):
            await applied(url)
        await connection.execute("DELETE FROM thing WHERE ctid = (SELECT min(ctid) FROM thing)")
        assert await applied(url) == [["0003.sql"]]
        assert await connection.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'thing_id'::regclass")
