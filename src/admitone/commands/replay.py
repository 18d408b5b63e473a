"""`admitone replay`: every event that is still kept is published again."""

import asyncio

import click

from admitone import registry
from admitone.commands.failing import told_plainly
from admitone.commands.running import database_url, opened, settings_in_force
from admitone.kernel.messaging import outbox
from admitone.kernel.settings import Settings

TELLING = click.Choice([each.name for each in registry.SERVICES if each.publications])


@click.command
@click.argument("services", metavar="[SERVICE]...", nargs=-1, type=TELLING)
@told_plainly
def replay(*, services: tuple[str, ...]) -> None:
    r"""Publish again every event that some services, or all, told in the last seven days.

    Whoever took an event in before does nothing with it a second time, so this is safe at any moment. The services
    need not run: their relays publish as soon as they do.

    \b
    Examples:
      admitone replay
      admitone replay orders tickets
    """
    asyncio.run(_replay(settings_in_force(), [each.name for each in registry.named(services) if each.publications]))


async def _replay(settings: Settings, services: list[str]) -> None:
    urls = {service: database_url(settings, service) for service in services}
    for service, url in urls.items():
        async with opened(url) as database, database.transaction() as tx:
            # As long as it takes: a week of events is more than a request may touch.
            await tx.execute("SET LOCAL statement_timeout = 0")
            click.echo(f"{service}: {await outbox.replay(tx)} events are published again")
