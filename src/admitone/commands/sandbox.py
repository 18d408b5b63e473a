"""`admitone sandbox`: the payment sandbox by itself; `admitone up` starts it when there is no key of Stripe's."""

import asyncio
import os
from pathlib import Path

import click
import uvloop

from admitone.commands.errors import CannotRun, report_errors
from admitone.kernel import logs
from admitone.local.program import write_ready_file
from admitone.sandbox.app import create_app, server


@click.command(hidden=True)
@click.option("--ready-file", type=click.Path(path_type=Path), help="A file to write the process id to once it serves.")
@report_errors
def sandbox(*, ready_file: Path | None) -> None:
    """Run the payment sandbox, told by ADMITONE_SANDBOX_DATABASE_URL, _KEY, _WEBHOOK_URL and _WEBHOOK_SECRET.

    It listens on the loopback interface, on ADMITONE_PORT.
    """
    logs.configure(os.environ.get("ADMITONE_LOG_LEVEL", "INFO"))
    uvloop.run(_serve(ready_file))


async def _serve(ready_file: Path | None) -> None:
    app = create_app(
        _told("ADMITONE_SANDBOX_DATABASE_URL"),
        api_key=_told("ADMITONE_SANDBOX_KEY"),
        webhook_url=_told("ADMITONE_SANDBOX_WEBHOOK_URL", ""),
        webhook_secret=_told("ADMITONE_SANDBOX_WEBHOOK_SECRET", ""),
    )
    serving = server(app, int(_told("ADMITONE_PORT")))
    task = asyncio.create_task(serving.serve())
    while not serving.started and not task.done():  # noqa: ASYNC110 – uvicorn offers no event to wait for
        await asyncio.sleep(0.01)
    if serving.started:
        write_ready_file(ready_file)
    await task


def _told(name: str, default: str | None = None) -> str:
    """Return a variable's value, which like any setting may be given as a file; raises CannotRun when it is missing."""
    if path := os.environ.get(f"{name}_FILE"):
        return Path(path).read_text().strip()
    value = os.environ.get(name, default)
    if value is None:
        raise CannotRun(f"{name} is not set")
    return value
