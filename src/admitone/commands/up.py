"""`admitone up`: run everything on this machine."""

import click
from msgspec.structs import replace

from admitone import registry
from admitone.auth.tokens import new_signing_key
from admitone.commands.errors import report_errors
from admitone.local import up as local
from admitone.payments.resources import refuse_public_test_payments


@click.command
@click.option("--processes", is_flag=True, help="Run each service as a process of its own.")
@click.option("--port", type=click.IntRange(1, 65535), help="The public port, instead of ADMITONE_PORT or 8000.")
@click.option("--data", type=click.Path(), help="The data folder, instead of ADMITONE_DATA or .admitone.")
@click.option("-v", "--verbose", is_flag=True, help="Write the log to the terminal instead of the data folder.")
@report_errors
def up(*, processes: bool, port: int | None, data: str | None, verbose: bool) -> None:
    """Run the whole marketplace on this machine.

    Starts PostgreSQL, NATS and a payment sandbox in the data folder, applies missing migrations and serves everything
    at one address until Ctrl-C. A server that the environment names (NATS_URL, ADMITONE_ORDERS_DATABASE_URL and so
    on) is used instead of starting one. With STRIPE_SECRET_KEY, payments go to Stripe; without a live
    key, it serves only this machine unless ADMITONE_ALLOW_TEST_PAYMENTS=1.

    \b
    Examples:
      admitone up
      admitone up --port 9000 --data /var/lib/admitone
      ADMITONE_ORDER_WINDOW_SECONDS=60 admitone up --processes
    """
    settings = registry.read_settings()
    settings = replace(settings, port=port or settings.port, data=data or settings.data)
    refuse_public_test_payments(settings, listens_at=settings.host)
    local.up(
        settings,
        registry.SERVICES,
        authority=registry.AUTHORITY,
        new_signing_key=new_signing_key,
        processes=processes,
        verbose=verbose,
        say=lambda text: click.echo(text, nl=False),
    )
