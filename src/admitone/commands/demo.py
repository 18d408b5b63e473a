"""`admitone demo`: fill a running marketplace with people and tickets."""

import asyncio

import click
import httpx

from admitone.commands.connection import effective_settings
from admitone.commands.errors import CannotRun, report_errors
from admitone.demo import DemoFailed, DemoReport, email_of, fill, require_marketplace


@click.command
@click.option("--url", help="The URL of the marketplace, instead of the one on the data folder.")
@click.option(
    "--password", default="one-ticket-one-holder", show_default=True, help="The password of every person of the demo."
)
@report_errors
def demo(*, url: str | None, password: str) -> None:
    """Fill a running marketplace with people and tickets, some of them reserved or sold.

    Everything goes through the HTTP API; tickets are bought with test cards. Running it again changes nothing. The
    people's password is public: do not run it where real money is at stake.

    \b
    Examples:
      admitone demo
      admitone demo --url https://tickets.example --password "correct horse battery"
    """
    url = url or effective_settings().public_origin
    report = DemoReport()
    try:
        asyncio.run(require_marketplace(url))
        with click.progressbar(length=report.steps, label="People and tickets") as bar:
            report.progress = bar.update
            asyncio.run(fill(url, password, report))
    except DemoFailed as error:
        raise click.ClickException(str(error)) from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise CannotRun(
            f"No marketplace responds at {url}: start `admitone up`, or pass another address with --url."
        ) from error
    click.echo(
        f"{report.people} people, {report.listed} tickets: {report.sold} sold, {report.reserved} reserved,"
        f" {report.declined} cards declined."
    )
    if report.skipped:
        click.echo(f"{report.skipped} tickets exist from another week and are left as they are.")
    click.echo(f"Sign in at {url}/auth/signin as {email_of('alice')} (sells) or {email_of('lena')} (buys).")
    click.echo(f"The password is {password}")
