"""How commands reach the marketplace: by the environment, otherwise by what runs on the data folder."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path

from msgspec.structs import replace

from admitone import registry
from admitone.auth.tokens import new_signing_key
from admitone.commands.errors import CannotRun
from admitone.kernel.database.pool import UNREACHABLE, Database, DatabaseUnreachable, connecting
from admitone.kernel.errors import Unavailable
from admitone.kernel.settings import Settings
from admitone.local.folder import open_data_folder
from admitone.local.installation import Installation, running_settings
from admitone.local.server import Server


def effective_settings() -> Settings:
    """Return the settings of the environment, completed with those of the `admitone up` on the data folder."""
    chosen = registry.read_settings()
    running = running_settings(Path(chosen.data).expanduser().absolute())
    if running is None:
        return chosen
    # A database that is chosen replaces the running one for both of its roles.
    migrator_urls = {each: url for each, url in running.migrator_urls.items() if each not in chosen.database_urls}
    return replace(
        running,
        database_urls=running.database_urls | chosen.database_urls,
        migrator_urls=migrator_urls | chosen.migrator_urls,
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


def owner_url(settings: Settings, service: str) -> tuple[str, str, str]:
    """Return the URL for the owner of a service's tables, the service, and which of its variables has the URL.

    Raises CannotRun if it is not known.
    """
    for variable, urls in (("MIGRATOR_URL", settings.migrator_urls), ("DATABASE_URL", settings.database_urls)):
        if url := urls.get(service):
            return url, service, variable
    raise CannotRun(
        f"No database of {service} is known: start `admitone up`, or set ADMITONE_{service.upper()}_MIGRATOR_URL."
    )


@contextmanager
def settings_of_databases(service: str, *, with_bus: bool = False) -> Iterator[Settings]:
    """Yield settings that lead to a service's database; a PostgreSQL of the data folder that is stopped runs meanwhile.

    The same holds for the bus with `with_bus`. This is for a marketplace that cannot start before the command has run.
    """
    settings = effective_settings()
    path = Path(settings.data).expanduser().absolute()
    if service in settings.database_urls or not (path / "postgres").exists():
        yield settings
        return
    with open_data_folder(path) as folder:
        installation = Installation(folder, settings, registry.SERVICES)
        postgres = installation.postgres()
        nats = installation.nats() if with_bus else None
        assert postgres is not None
        with _started(postgres), _started(nats) if nats else nullcontext():
            yield installation.resolved(postgres, nats, new_signing_key)


@contextmanager
def _started(server: Server) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        server.stop()


def open_database(settings: Settings, service: str) -> AbstractAsyncContextManager[Database]:
    """Connect to a service's database for the duration of one command; raises DatabaseUnreachable or CannotRun."""
    return open_database_at(database_url(settings, service), service)


@asynccontextmanager
async def open_database_at(url: str, service: str, variable: str = "DATABASE_URL") -> AsyncIterator[Database]:
    """Connect to a service's database at a URL; raises DatabaseUnreachable, or SettingsError about the `variable`."""
    with connecting(service, url, variable):
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
