"""`admitone serve`: run chosen services in this process."""

import asyncio
import contextlib
from pathlib import Path

import click
import uvloop

from admitone import registry
from admitone.commands.errors import report_errors
from admitone.kernel import logs, runner
from admitone.local.program import write_ready_file

_SERVICES = [each.name for each in registry.SERVICES]


@click.command(epilog=f"Services: {', '.join(_SERVICES)}.")
@click.argument("services", metavar="SERVICE...", nargs=-1, required=True, type=click.Choice(_SERVICES))
@click.option(
    "--ready-file", type=click.Path(path_type=Path), hidden=True, help="A file to write the process id to once ready."
)
@report_errors
def serve(*, services: tuple[str, ...], ready_file: Path | None) -> None:
    """Run some services in this process, until SIGTERM.

    The environment names the servers: ADMITONE_ORDERS_DATABASE_URL, NATS_URL and so on. The databases must be up to
    date; see `admitone migrate`. Logs go to standard error as JSON.

    \b
    Examples:
      admitone serve orders
      ADMITONE_PORT=8001 admitone serve tickets orders
    """
    settings = registry.read_settings()
    logs.configure(settings.log_level)

    async def ready() -> None:
        write_ready_file(ready_file)

    serving = runner.serve(
        registry.named(services), settings, registry.AUTHORITY, documented=registry.SERVICES, on_ready=ready
    )
    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(serving)
