"""`admitone migrate`: apply missing migrations."""

import asyncio

import click

from admitone import registry
from admitone.commands.connection import effective_settings
from admitone.commands.errors import CannotRun, report_errors
from admitone.kernel.database import migrations
from admitone.kernel.settings import Settings

_SERVICES = click.Choice([each.name for each in registry.SERVICES])
_WITH_DATABASE = ", ".join(each.name for each in registry.SERVICES if each.has_database)


@click.command(epilog=f"Services with a database: {_WITH_DATABASE}.")
@click.argument("services", metavar="[SERVICE]...", nargs=-1, type=_SERVICES)
@report_errors
def migrate(*, services: tuple[str, ...]) -> None:
    """Apply missing migrations to the databases of some services, or of all.

    Connects with ADMITONE_<SERVICE>_MIGRATOR_URL, otherwise with ADMITONE_<SERVICE>_DATABASE_URL, otherwise to the
    databases of the `admitone up` that runs on the data folder. Running it twice, or concurrently, is safe.

    \b
    Examples:
      admitone migrate
      ADMITONE_ORDERS_MIGRATOR_URL=postgresql://owner:secret@localhost/orders admitone migrate orders
    """
    asyncio.run(_migrate([each.name for each in registry.named(services) if each.has_database]))


async def _migrate(services: list[str]) -> None:
    settings = effective_settings()
    for service in services:
        applied = await migrations.migrate(*_owner_url(settings, service))
        click.echo(f"{service}: {', '.join(applied) if applied else 'up to date'}")


def _owner_url(settings: Settings, service: str) -> tuple[str, str, str]:
    """Return the URL, the service, and which of the service's variables has the URL."""
    for variable, urls in (("MIGRATOR_URL", settings.migrator_urls), ("DATABASE_URL", settings.database_urls)):
        if url := urls.get(service):
            return url, service, variable
    raise CannotRun(
        f"No database of {service} is known: start `admitone up`, or set ADMITONE_{service.upper()}_MIGRATOR_URL."
    )
