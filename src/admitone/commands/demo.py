"""`admitone demo`: people and tickets for a running marketplace."""

import asyncio

import click
import httpx

from admitone import demo as whole
from admitone.commands.failing import CannotRun, told_plainly
from admitone.commands.running import settings_in_force


@click.command
@click.option("--url", help="Where the marketplace is, instead of the one on the data folder.")
@click.option(
    "--password", default="one-ticket-one-holder", show_default=True, help="The password of everybody in the demo."
)
@told_plainly
def demo(*, url: str | None, password: str) -> None:
    r"""Fill a running marketplace with people and tickets, some of them reserved or sold.

    Everything goes through the HTTP API; tickets are bought with test cards. Running it again changes nothing that is
    there. These people sign in with a password that everybody can read: do not run it where real money is.

    \b
    Examples:
      admitone demo
      admitone demo --url https://tickets.example --password "correct horse battery"
    """
    url = url or settings_in_force().public_origin
    told = whole.Told()
    try:
        with click.progressbar(length=told.steps, label="People and tickets") as bar:
            told.progress = bar.update
            asyncio.run(whole.fill(url, password, told))
    except whole.DemoFailed as error:
        raise click.ClickException(str(error)) from error
    except httpx.TransportError as error:
        raise CannotRun(
            f"Nothing answers at {url}: start `admitone up`, or name another address with --url."
        ) from error
    click.echo(
        f"{told.people} people, {told.listed} tickets: {told.sold} sold, {told.reserved} reserved,"
        f" {told.declined} cards declined on the way."
    )
    if told.skipped:
        click.echo(f"{told.skipped} tickets were there from another week and are left as they are.")
    click.echo(f"Sign in at {url}/auth/signin as {whole.email('alice')} (sells) or {whole.email('lena')} (buys).")
    click.echo(f"The password is {password}")
