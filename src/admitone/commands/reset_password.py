"""`admitone reset-password`: give an account a new password, for one whose password is lost."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from uuid import UUID

import click

from admitone.auth import store
from admitone.auth.model import read_email
from admitone.auth.passwords import Passwords
from admitone.commands.connection import effective_settings, open_database
from admitone.commands.errors import report_errors
from admitone.events import SessionRevoked, UserUpdated
from admitone.kernel import ids
from admitone.kernel.database.pool import Database
from admitone.kernel.http.sessions import session_revoked
from admitone.kernel.settings import Settings

_PASSWORD_BYTES: Final = 10
_NO_SESSION: Final = UUID(int=0)


@click.command("reset-password")
@click.argument("email", required=False)
@report_errors
def reset_password(*, email: str | None) -> None:
    """Give an account a new password and end its sessions; without EMAIL, list the accounts whose password is lost.

    A database of auth that was restored to an earlier time lacks passwords that were chosen since. Make sure that it
    is the owner who asks for a new one: it is printed once, and they change it after signing in.

    \b
    Examples:
      admitone reset-password
      admitone reset-password alice@example.com
    """
    asyncio.run(_reset(effective_settings(), email) if email else _list(effective_settings()))


async def _list(settings: Settings) -> None:
    async with open_database(settings, "auth") as database:
        for email in await store.emails_without_password(database):
            click.echo(email)


async def _reset(settings: Settings, typed: str) -> None:
    try:
        email = read_email(typed)
    except ValueError:
        raise click.BadParameter("That is no e-mail address.", param_hint="EMAIL") from None
    password = ids.new_token(_PASSWORD_BYTES)
    with ThreadPoolExecutor(1) as threads:
        password_hash = await (await Passwords.start(threads)).hash(password)
    async with open_database(settings, "auth") as database:
        await _save(database, email, password_hash)
    click.echo(f"The new password of {email} is {password}")


async def _save(database: Database, email: str, password_hash: str) -> None:
    async with database.transaction() as tx:
        account = await store.account_for_change(tx, email)
        if account is None:
            raise click.ClickException(f"There is no account with the address {email}.")
        changed = account.changed(None, password_hash)
        await store.change_account(tx, changed)
        tx.publish(UserUpdated(id=changed.id, email=changed.email, version=changed.version, password_changed=True))
        for session in await store.end_other_sessions(tx, account.id, _NO_SESSION):
            revoked = SessionRevoked(session_id=session.id, user_id=session.account_id, expires_at=session.expires_at)
            tx.publish(revoked)
            await session_revoked(tx, revoked)
