"""`python -m stripe_sandbox`: serve the sandbox until SIGINT or SIGTERM."""

import asyncio
import logging
import os
from pathlib import Path

import click
import uvloop

from stripe_sandbox.app import create_app, create_server


@click.command()
@click.option("--ready-file", type=click.Path(path_type=Path), help="A file to write the process id to once it serves.")
def main(*, ready_file: Path | None) -> None:
    """Serve the payment sandbox on the loopback interface.

    ADMITONE_PORT is the port, ADMITONE_SANDBOX_DATABASE the file of its database, ADMITONE_SANDBOX_KEY the secret API
    key, ADMITONE_SANDBOX_WEBHOOK_URL and ADMITONE_SANDBOX_WEBHOOK_SECRET the webhook endpoint. Each may instead name a
    file by the suffix _FILE.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    uvloop.run(_serve(ready_file))


async def _serve(ready_file: Path | None) -> None:
    app = create_app(
        Path(_setting("ADMITONE_SANDBOX_DATABASE")),
        secret_key=_setting("ADMITONE_SANDBOX_KEY"),
        webhook_url=_setting("ADMITONE_SANDBOX_WEBHOOK_URL", ""),
        webhook_secret=_setting("ADMITONE_SANDBOX_WEBHOOK_SECRET", ""),
    )
    server = create_server(app, int(_setting("ADMITONE_PORT")))
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn offers no event to wait for
        await asyncio.sleep(0.01)
    if server.started and ready_file is not None:
        ready_file.write_text(str(os.getpid()))  # noqa: ASYNC240 - once
    await serving


def _setting(name: str, default: str | None = None) -> str:
    if path := os.environ.get(f"{name}_FILE"):
        return Path(path).read_text().strip()
    if (value := os.environ.get(name, default)) is None:
        raise click.UsageError(f"{name} is not set")
    return value


if __name__ == "__main__":
    main()
