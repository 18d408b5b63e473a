"""The links a chaos run breaks: each fault does to a real PostgreSQL what it says, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from admitone.local.postgres import Postgres
from admitone.local.server import free_port
from proof.chaos.detour import at_port
from proof.chaos.links import Link

BROKEN = (asyncpg.PostgresConnectionError, ConnectionError, asyncpg.InterfaceError)


@pytest.fixture
async def link(postgres: Postgres) -> AsyncIterator[Link]:
    link = Link(free_port(), postgres.port, is_postgres=True)
    await link.open()
    try:
        yield link
    finally:
        await link.close()


@asynccontextmanager
async def connected(postgres: Postgres, link: Link | None = None) -> "AsyncIterator[asyncpg.Connection[Any]]":
    url = postgres.url() if link is None else at_port(postgres.url(), link.port)
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


@pytest.fixture
async def table(postgres: Postgres) -> AsyncIterator[str]:
    """A table of one column, gone after the test."""
    name = f"kept_{free_port()}"
    async with connected(postgres) as connection:
        await connection.execute(f"CREATE TABLE {name} (word text)")
        try:
            yield name
        finally:
            await connection.execute(f"DROP TABLE {name}")


async def words(postgres: Postgres, table: str) -> list[str]:
    async with connected(postgres) as connection:
        return [row["word"] for row in await connection.fetch(f"SELECT word FROM {table} ORDER BY word")]


async def test_a_link_passes_everything_on(postgres: Postgres, link: Link) -> None:
    async with connected(postgres, link) as connection:
        assert await connection.fetchval("SELECT repeat('x', 1000000)") == "x" * 1_000_000


async def test_a_cut_link_breaks_connections_and_refuses_new_ones(postgres: Postgres, link: Link) -> None:
    async with connected(postgres, link) as connection:
        link.cut()
        with pytest.raises(BROKEN):
            await connection.fetchval("SELECT 1")
        with pytest.raises(BROKEN):
            await asyncpg.connect(at_port(postgres.url(), link.port))
    link.heal()
    async with connected(postgres, link) as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_half_open_link_keeps_connections_and_loses_what_is_sent(
    postgres: Postgres, link: Link, table: str
) -> None:
    async with connected(postgres, link) as connection:
        link.swallow()
        with pytest.raises(TimeoutError):
            await connection.execute(f"INSERT INTO {table} VALUES ('lost')", timeout=0.2)
        link.heal()
        with pytest.raises(BROKEN):
            await connection.fetchval("SELECT 1", timeout=5)
    assert await words(postgres, table) == []


async def test_a_longer_way_delays_and_keeps_the_order(postgres: Postgres, link: Link) -> None:
    async with connected(postgres, link) as connection:
        link.delay(0.05)
        began = asyncio.get_running_loop().time()
        assert await connection.fetchval("SELECT 1") == 1
        assert asyncio.get_running_loop().time() - began >= 0.1
        asked = asyncio.create_task(connection.fetchval("SELECT repeat('x', 1000000)"))
        link.delay(0.0)
        assert await asked == "x" * 1_000_000


@pytest.mark.parametrize("before", [True, False], ids=["lost", "committed"])
async def test_nobody_knows_what_became_of_a_commit_that_is_broken(
    postgres: Postgres, link: Link, table: str, before: bool
) -> None:
    async with connected(postgres, link) as connection:
        breaking = asyncio.create_task(link.break_commit(before=before, wait_seconds=5))
        await asyncio.wait([breaking], timeout=0)
        with pytest.raises(BROKEN):
            async with connection.transaction():
                await connection.execute(f"INSERT INTO {table} VALUES ('written')")
        assert await breaking
    assert await words(postgres, table) == ([] if before else ["written"])


@pytest.mark.parametrize("before", [True, False], ids=["lost", "committed"])
async def test_a_changing_statement_by_itself_is_a_commit(
    postgres: Postgres, link: Link, table: str, before: bool
) -> None:
    async with connected(postgres, link) as connection:
        await connection.fetch(f"SELECT word FROM {table} WHERE word = $1", "none")
        breaking = asyncio.create_task(link.break_commit(before=before, wait_seconds=5))
        await asyncio.wait([breaking], timeout=0)
        await connection.fetch(f"SELECT word FROM {table} WHERE word = $1", "none")
        assert not breaking.done()
        with pytest.raises(BROKEN):
            await connection.execute(f"INSERT INTO {table} VALUES ($1)", "written")
        assert await breaking
    assert await words(postgres, table) == ([] if before else ["written"])


async def test_without_a_commit_in_time_nothing_is_broken(postgres: Postgres, link: Link) -> None:
    async with connected(postgres, link) as connection:
        assert not await link.break_commit(before=False, wait_seconds=0.05)
        assert await connection.fetchval("SELECT 1") == 1
