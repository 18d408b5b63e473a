"""`admitone migrate`: databases brought up to date."""

import asyncio

import click

from admitone import registry
from admitone.commands.failing import CannotRun, told_plainly
from admitone.commands.running import settings_in_force
from admitone.commands.serve import SERVICE
from admitone.kernel.database.migrations import migrate as bring_up_to_date
from admitone.kernel.settings import Settings


@click.command
@click.argument("services", metavar="[SERVICE]...", nargs=-1, type=SERVICE)
@told_plainly
def migrate(*, services: tuple[str, ...]) -> None:
    r"""Bring the databases of some services, or of all, up to date.

    Connects as ADMITONE_<SERVICE>_MIGRATOR_URL, else as ADMITONE_<SERVICE>_DATABASE_URL, else to the databases of the
    `admitone up` that runs on the data folder. Running it again, or twice at once, is safe.

    \b
    Examples:
      admitone migrate
      ADMITONE_ORDERS_MIGRATOR_URL=postgresql://… admitone migrate orders
    """
    asyncio.run(_migrate([each.name for each in registry.named(services) if each.has_database]))


async def _migrate(services: list[str]) -> None:
    settings = settings_in_force()
    for service in services:
        applied = await bring_up_to_date(_owner_url(settings, service), service)
        click.echo(f"{service}: {', '.join(applied) if applied else 'up to date'}")


def _owner_url(settings: Settings, service: str) -> str:
    url = settings.migrator_urls.get(service) or settings.database_urls.get(service)
    if url is None:
        raise CannotRun(
            f"No database of {service} is known: start `admitone up`, or set ADMITONE_{service.upper()}_MIGRATOR_URL."
        )
    return url
