"""`admitone recover`: bring a database that was restored to an earlier time up to what its service published since."""

import asyncio
from collections import Counter

import click

from admitone import registry
from admitone.commands.connection import database_url, open_database, settings_of_databases
from admitone.commands.errors import CannotRun, report_errors
from admitone.kernel.addresses import reason_of
from admitone.kernel.database import migrations
from admitone.kernel.messaging.bus import UNREACHABLE, Bus, connection_problem
from admitone.kernel.messaging.outbox import ServiceRuns
from admitone.kernel.messaging.recovery import Recovery
from admitone.kernel.messaging.recovery import recover as recover_database
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings

_SERVICES = click.Choice([each.name for each in registry.SERVICES if each.publications])


@click.command
@click.argument("service", type=_SERVICES)
@report_errors
def recover(*, service: str) -> None:
    """Bring a database that was restored to an earlier time up to what its service published since.

    Run it before the service is started again. What was published since is on the bus for eight days, or less if
    streams reach their limit: it returns to the database, and tickets, orders, payments or accounts are rebuilt from
    it. What the service had consumed since arrives again when it starts. Nothing is published. Running it again, for
    example after an interruption, is safe.

    Connects with ADMITONE_<SERVICE>_DATABASE_URL and NATS_URL, otherwise to the servers of the data folder, whether
    `admitone up` runs on it or not. Data of payments is adopted first: see `admitone adopt`.

    Exit code 1 if something could not be rebuilt, such as what was published more than eight days ago.

    \b
    Examples:
      admitone recover orders
    """
    [declaration] = registry.named([service])
    with settings_of_databases(service, with_bus=True) as settings:
        recovery = asyncio.run(_recover(settings, declaration))
    click.echo(f"{service}: {recovery.events} events returned from the bus")
    for lost in recovery.lost:
        click.echo(f"{service}: {lost.type} of {lost.aggregate} is not rebuilt: {lost.reason}")
    if recovery.lost:
        count = len({lost.aggregate for lost in recovery.lost})
        kinds = ", ".join(Counter(lost.type for lost in recovery.lost))
        raise click.ClickException(
            f"{count} are incomplete ({kinds}). Start {service}, and let `admitone check` show what that breaks."
        )
    click.echo(f"{service}: what it had consumed arrives again; start the service")


async def _recover(settings: Settings, declaration: Service) -> Recovery:
    name = declaration.name
    database_url(settings, name)
    url = settings.nats_url(name)
    if problem := await connection_problem(url):
        raise CannotRun(f"{problem}.")
    async with open_database(settings, name) as database:
        if await migrations.missing(name, database):
            raise CannotRun(f"The database of {name} is not up to date: run `admitone migrate {name}` first.")
        bus = Bus(name)
        bus.start(url)
        try:
            await bus.ready()
            return await recover_database(database, bus, declaration.producers, declaration.rebuilds)
        except ServiceRuns:
            raise CannotRun(f"{name} runs: stop it everywhere, and run the command again.") from None
        except UNREACHABLE as error:
            raise CannotRun(f"The bus does not respond any more: {reason_of(error)}. Run the command again.") from error
        finally:
            await bus.close()
