"""`admitone replay`: publish every stored event again."""

import asyncio

import click

from admitone import registry
from admitone.commands.connection import database_url, effective_settings, open_database
from admitone.commands.errors import report_errors
from admitone.kernel.messaging import outbox
from admitone.kernel.settings import Settings

_PRODUCERS = click.Choice([each.name for each in registry.SERVICES if each.publications])


@click.command
@click.argument("services", metavar="[SERVICE]...", nargs=-1, type=_PRODUCERS)
@report_errors
def replay(*, services: tuple[str, ...]) -> None:
    """Publish again every event of the outboxes, at most the last seven days, of some services or of all.

    Consumers ignore events they have consumed before, so a replay is safe at any time. The services need not be
    running: their relays publish as soon as they start.

    \b
    Examples:
      admitone replay
      admitone replay orders tickets
    """
    asyncio.run(_replay(effective_settings(), [each.name for each in registry.named(services) if each.publications]))


async def _replay(settings: Settings, services: list[str]) -> None:
    for service in services:
        database_url(settings, service)  # none is published again if one is missing
    for service in services:
        async with open_database(settings, service) as database, database.transaction() as tx:
            # A week of events takes longer than the statement timeout for requests.
            await tx.execute("SET LOCAL statement_timeout = 0")
            click.echo(f"{service}: {await outbox.replay(tx)} events are published again")
