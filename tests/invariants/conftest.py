"""Fixtures of the invariants: a marketplace at rest, started once, and copies of its databases for each test."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
import pytest_asyncio

from admitone.local.postgres import Postgres
from proof.marketplace import STORED
from tests.engines import short_folder
from tests.invariants.support import Copies, Rest, trade


@pytest.fixture(scope="session")
def rest() -> Iterator[Rest]:
    with short_folder() as folder:
        traded = asyncio.run(trade(folder))
        postgres = Postgres(folder / "postgres", (folder / "secrets" / "database_superuser").read_text())
        postgres.start()
        try:
            yield Rest(postgres, traded)
        finally:
            postgres.stop()


_numbers = itertools.count(1)


@pytest_asyncio.fixture
async def copies(rest: Rest) -> AsyncIterator[Copies]:
    server = rest.postgres.url().rpartition("/")[0]
    names = {service: f"copy_{next(_numbers)}_{service}" for service in STORED}
    connection = await asyncpg.connect(rest.postgres.url())
    for service, name in names.items():
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {service}")
    try:
        yield Copies(rest.trade, {service: f"{server}/{name}" for service, name in names.items()}, rest.trade.intents)
    finally:
        for name in names.values():
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()
