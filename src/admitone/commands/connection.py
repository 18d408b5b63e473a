"""How commands reach the marketplace: by the environment, otherwise by what runs on the data folder."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from admitone import registry
from admitone.commands.errors import CannotRun
from admitone.kernel.database.pool import UNREACHABLE, Database, DatabaseUnreachable, connecting
from admitone.kernel.errors import Unavailable
from admitone.kernel.settings import Settings
from admitone.local.installation import running_settings


def effective_settings() -> Settings:
    """Return the settings of the environment, completed with those of the `admitone up` on the data folder."""
    chosen = registry.read_settings()
    running = running_settings(Path(chosen.data).expanduser().absolute())
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
    """Return the URL of a service's database; raises CannotRun if it is not known."""
    try:
        return settings.database_urls[service]
    except KeyError:
        raise CannotRun(
            f"No database of {service} is known: nothing runs on {settings.data},"
            f" and ADMITONE_{service.upper()}_DATABASE_URL is not set."
        ) from None


@asynccontextmanager
async def open_database(settings: Settings, service: str) -> AsyncIterator[Database]:
    """Connect to a service's database for the duration of one command; raises DatabaseUnreachable or CannotRun."""
    url = database_url(settings, service)
    with connecting(service, url):
        database = await Database.connect(url, application="admitone command", connections=2)
    database.silent_seconds_max = None
    try:
        yield database
    except BrokenPipeError:
        raise  # the command's output
    except (Unavailable, *UNREACHABLE) as error:
        raise DatabaseUnreachable(service, url, error) from error
    finally:
        await database.close()
