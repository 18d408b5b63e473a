"""`admitone adopt`: let payments act on Stripe with data that was moved or copied."""

import asyncio

import asyncpg
import click

from admitone.commands.connection import open_database_at, owner_url, settings_of_databases
from admitone.commands.errors import CannotRun, report_errors
from admitone.kernel.database import migrations
from admitone.payments import store


@click.command
@click.option("--new-installation", is_flag=True, help="The data is a copy: leave the original's payments alone.")
@click.option("--new-account", is_flag=True, help="Continue with the account of Stripe that the present key is of.")
@click.option(
    "--cancel-unknown", is_flag=True, help="Rebuild payments that the data lacks, or release what Stripe holds."
)
@report_errors
def adopt(*, new_installation: bool, new_account: bool, cancel_unknown: bool) -> None:
    """Let payments act on Stripe with data that was moved or copied.

    The data of payments belongs to one database and to one account of Stripe, with its mode. In another database, or
    with a key of another account, payments refuses to start: a copy must not settle, void or refund the payments of
    its original. Adopt the data when it replaces the original, for example after a dump was restored. First make sure
    that the original does not run any more.

    For a copy, such as one for tests, use --new-installation: payments that were open fail here and stay as they are
    at Stripe, and new ones differ from the original's.

    Data that was restored to an earlier time lacks the payments made since: `admitone recover payments` rebuilds those
    that published something. With --cancel-unknown, the others that Stripe knows, up to now, go on if their order can
    still be paid with them; otherwise what is held is released, within a minute or two. Never use it on a copy: to the
    copy, every later payment of the original is unknown.

    Connects with ADMITONE_PAYMENTS_MIGRATOR_URL, otherwise with ADMITONE_PAYMENTS_DATABASE_URL, otherwise to the
    database in the data folder, whether `admitone up` runs on it or not.

    Payments that were made in another account can be settled, voided and refunded only with a key of that account.

    \b
    Examples:
      admitone adopt
      admitone adopt --cancel-unknown
      admitone adopt --new-installation
    """
    if new_installation and cancel_unknown:
        raise click.UsageError(
            "--cancel-unknown is for data that replaces its original, --new-installation for a copy."
        )
    with settings_of_databases("payments") as settings:
        changes = _adopt(
            owner_url(settings, "payments"),
            new_installation=new_installation,
            new_account=new_account,
            cancel_unknown=cancel_unknown,
        )
        try:
            asyncio.run(changes)
        except asyncpg.InsufficientPrivilegeError:
            raise CannotRun(
                "Only the owner of the tables may do this: set ADMITONE_PAYMENTS_MIGRATOR_URL to the owner's URL."
            ) from None


async def _adopt(
    owner: tuple[str, str, str], *, new_installation: bool, new_account: bool, cancel_unknown: bool
) -> None:
    async with open_database_at(*owner) as database:
        if await migrations.missing("payments", database):
            raise CannotRun("The database of payments is not up to date: run `admitone migrate payments` first.")
        async with database.transaction() as tx:
            await store.adopt_database(tx)
            if new_installation:
                await store.renew_installation(tx)
                click.echo(f"payments: {await store.abandon_payments(tx)} open payments are left to the original")
            if cancel_unknown:
                await store.cancel_unknown_intents(tx)
                click.echo("payments: payments at Stripe that are unknown here will be rebuilt or released")
            if new_installation or new_account:
                await store.forget_account(tx)
                click.echo("payments: the account of Stripe is recorded at the next start")
    click.echo("payments: the data belongs to this database; start the service")
