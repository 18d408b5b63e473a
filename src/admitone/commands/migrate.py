"""`admitone migrate`: apply missing migrations."""

import asyncio

import click

from admitone import registry
from admitone.commands.connection import effective_settings, owner_url
from admitone.commands.errors import report_errors
from admitone.kernel.database import migrations

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
        applied = await migrations.migrate(*owner_url(settings, service))
        click.echo(f"{service}: {', '.join(applied) if applied else 'up to date'}")
