"""`admitone resync`: publish the present state of every aggregate."""

import asyncio

import click

from admitone import registry
from admitone.commands.connection import effective_settings, open_database
from admitone.commands.errors import report_errors
from admitone.kernel.messaging.snapshots import publish_snapshots
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings

_PRODUCERS = click.Choice([each.name for each in registry.SERVICES if each.snapshots])


@click.command
@click.argument("services", metavar="[SERVICE]...", nargs=-1, type=_PRODUCERS)
@report_errors
def resync(*, services: tuple[str, ...]) -> None:
    """Publish the present state of everything, of some services or of all, for consumers that lack its history.

    Use it after a service was added, after a consumer was away for longer than events are kept, and after a release
    whose notes ask for it. Consumers that are up to date change nothing, so a resync is safe at any time. The services
    need not be running: their relays publish as soon as they start.

    \b
    Examples:
      admitone resync
      admitone resync tickets
    """
    asyncio.run(_resync(effective_settings(), [each for each in registry.named(services) if each.snapshots]))


async def _resync(settings: Settings, services: list[Service]) -> None:
    for service in services:
        async with open_database(settings, service.name) as database:
            count = await publish_snapshots(database, service.snapshots)
            click.echo(f"{service.name}: {count} events are published")
