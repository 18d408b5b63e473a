"""Where the running marketplace is: told by the environment, else found by its data folder."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from admitone.commands.failing import CannotRun
from admitone.kernel.database.pool import Database
from admitone.kernel.settings import Settings
from admitone.local.installation import found_running


def settings_in_force() -> Settings:
    """Return the settings of the environment, with what the `admitone up` on the data folder knows filled in.

    What the environment names itself comes first.
    """
    chosen = Settings.from_environment()
    running = found_running(Path(chosen.data).expanduser().absolute())
    if running is None:
        return chosen
    return replace(
        running,
        database_urls=running.database_urls | chosen.database_urls,
        migrator_urls=running.migrator_urls | chosen.migrator_urls,
        nats_urls=running.nats_urls | chosen.nats_urls,
        origin=chosen.origin or running.origin,
        log_level=chosen.log_level,
    )


def database_url(settings: Settings, service: str) -> str:
    """Return where a service's database is; raises CannotRun with what to do when nobody says."""
    try:
        return settings.database_urls[service]
    except KeyError:
        raise CannotRun(
            f"No database of {service} is known: nothing runs on {settings.data},"
            f" and ADMITONE_{service.upper()}_DATABASE_URL is not set."
        ) from None


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """Open a service's database for the length of one command."""
    database = await Database.connect(url, application="admitone command", connections=2)
    try:
        yield database
    finally:
        await database.close()
