"""`admitone serve`: chosen services in this process, told everything by the environment."""

import asyncio
import contextlib
from pathlib import Path

import click
import uvloop

from admitone import registry
from admitone.commands.failing import told_plainly
from admitone.kernel import logs, runner
from admitone.kernel.settings import Settings
from admitone.local.program import say_ready

SERVICE = click.Choice([each.name for each in registry.SERVICES])


@click.command
@click.argument("services", metavar="SERVICE...", nargs=-1, required=True, type=SERVICE)
@click.option(
    "--ready-file", type=click.Path(path_type=Path), hidden=True, help="A file to write the process id to once ready."
)
@told_plainly
def serve(*, services: tuple[str, ...], ready_file: Path | None) -> None:
    r"""Run some services in this process, until SIGTERM.

    The environment says where the servers are: ADMITONE_ORDERS_DATABASE_URL, NATS_URL and so on. The databases must
    be up to date; see `admitone migrate`. Logs go to standard error as JSON.

    \b
    Examples:
      admitone serve orders
      ADMITONE_PORT=8001 admitone serve tickets orders
    """
    settings = Settings.from_environment()
    logs.configure(settings.log_level)

    async def ready() -> None:
        say_ready(ready_file)

    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(runner.serve(registry.named(services), settings, registry.AUTHORITY, on_ready=ready))
