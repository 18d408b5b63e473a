"""A running marketplace that all tests of commands share."""

from collections.abc import Iterator

import asyncpg
import pytest

from admitone.kernel.settings import Settings
from admitone.local.installation import running_settings
from tests.engines import short_folder
from tests.support import eventually
from tests.whole import Up, running_up


@pytest.fixture(scope="session")
def up() -> Iterator[Up]:
    with short_folder() as folder, running_up(folder / "data") as up:
        yield up


@pytest.fixture
def settings(up: Up) -> Settings:
    return settings_of(up)


def settings_of(up: Up) -> Settings:
    found = running_settings(up.folder)
    assert found is not None
    return found


async def change(settings: Settings, service: str, sql: str, *arguments: object) -> str:
    """Change a service's database as its owner; return PostgreSQL's command tag."""
    connection = await asyncpg.connect(settings.migrator_urls[service])
    try:
        return str(await connection.execute(sql, *arguments))
    finally:
        await connection.close()


async def value(settings: Settings, service: str, sql: str, *arguments: object) -> object:
    connection = await asyncpg.connect(settings.database_urls[service])
    try:
        return await connection.fetchval(sql, *arguments)
    finally:
        await connection.close()


async def until(settings: Settings, service: str, sql: str, *arguments: object, becomes: object) -> None:
    """Wait until a statement has this value in a service's database."""

    async def holds() -> bool:
        return await value(settings, service, sql, *arguments) == becomes

    await eventually(holds, f"{sql} is {becomes}")
