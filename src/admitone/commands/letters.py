"""`admitone dead-letters`: events that a service could not handle, for people to decide about."""

import asyncio
from collections.abc import AsyncIterator

import click
import msgspec

from admitone import registry
from admitone.commands.failing import told_plainly
from admitone.commands.running import database_url, opened, settings_in_force
from admitone.kernel.database.pool import Database
from admitone.kernel.messaging import dead_letters as letters
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.dead_letters import DeadLetter
from admitone.kernel.messaging.event import Undecodable
from admitone.kernel.messaging.inbox import Inbox
from admitone.kernel.service import Service

HEARING = click.Choice([each.name for each in registry.SERVICES if each.has_database])
chosen_service = click.option("--service", type=HEARING, help="Only this service's dead letters.")


@click.group(name="dead-letters")
def dead_letters() -> None:
    r"""Look at events that a service could not handle, and decide about them.

    An event that fails five times is set aside, so that the others flow on. Once the reason is gone it can be handled
    again; one that is worth nothing can be dropped.

    \b
    Examples:
      admitone dead-letters list
      admitone dead-letters show 019aa5f0-6f0e-7c3a-9d41-2a8f0c7be311
      admitone dead-letters retry --all --service orders
      admitone dead-letters drop orders:17
    """


@dead_letters.command(name="list")
@chosen_service
@told_plainly
def list_letters(*, service: str | None) -> None:
    r"""List dead letters, the oldest first: service, id, subject, attempts, error.

    \b
    Examples:
      admitone dead-letters list
      admitone dead-letters list --service orders
    """
    asyncio.run(_list(service))


async def _list(service: str | None) -> None:
    count = 0
    async for name, letter in _dead(service):
        count += 1
        click.echo(f"{name}  {letter.id}  {letter.subject}  {letter.attempts} attempts  {_first_line(letter.error)}")
    click.echo(f"{count} dead letters")


@dead_letters.command
@click.argument("letter_id", metavar="ID")
@chosen_service
@told_plainly
def show(*, letter_id: str, service: str | None) -> None:
    r"""Show one dead letter with its whole error and its message.

    \b
    Example:
      admitone dead-letters show 019aa5f0-6f0e-7c3a-9d41-2a8f0c7be311
    """
    asyncio.run(_show(letter_id, service))


async def _show(letter_id: str, service: str | None) -> None:
    count = 0
    async for name, letter in _dead(service, letter_id):
        count += 1
        click.echo(f"service          {name}\nid               {letter.id}\nsubject          {letter.subject}")
        click.echo(f"attempts         {letter.attempts}\nfirst failed at  {letter.first_failed_at.isoformat()}")
        click.echo(f"last failed at   {letter.last_failed_at.isoformat()}\nerror            {letter.error}\n")
        click.echo(_readable(letter.message))
    _demand(count, letter_id)


@dead_letters.command
@click.argument("letter_id", metavar="[ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@chosen_service
@told_plainly
def retry(*, letter_id: str | None, everything: bool, service: str | None) -> None:
    r"""Handle dead letters now; one that works is forgotten, one that fails again stays.

    Exit code 1 when one failed again.

    \b
    Examples:
      admitone dead-letters retry 019aa5f0-6f0e-7c3a-9d41-2a8f0c7be311
      admitone dead-letters retry --all --service orders
    """
    if not asyncio.run(_retry(_which(letter_id, everything=everything), service)):
        raise click.exceptions.Exit(1)


async def _retry(letter_id: str | None, service: str | None) -> bool:
    count, failed = 0, 0
    for each in _services(service):
        async with opened(database_url(settings_in_force(), each.name)) as database:
            inbox = Inbox(each.name, database, Bus(each.name), each.subscriptions)
            for letter in await _found(database, letter_id):
                count += 1
                try:
                    await letters.retry(database, inbox, letter)
                except Exception as error:  # noqa: BLE001 – whatever a handler raises is what the operator must read
                    failed += 1
                    reason = "it is no event" if isinstance(error, Undecodable) else type(error).__name__
                    click.echo(f"{each.name}  {letter.id}  failed again: {reason}: {_first_line(str(error))}", err=True)
                else:
                    click.echo(f"{each.name}  {letter.id}  handled")
    if letter_id is not None:
        _demand(count, letter_id)
    click.echo(f"{count - failed} handled, {failed} failed again")
    return not failed


@dead_letters.command
@click.argument("letter_id", metavar="[ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@chosen_service
@told_plainly
def drop(*, letter_id: str | None, everything: bool, service: str | None) -> None:
    r"""Forget dead letters for good: their events never take effect.

    \b
    Examples:
      admitone dead-letters drop orders:17
      admitone dead-letters drop --all --service web
    """
    asyncio.run(_drop(_which(letter_id, everything=everything), service))


async def _drop(letter_id: str | None, service: str | None) -> None:
    count = 0
    for each in _services(service):
        async with opened(database_url(settings_in_force(), each.name)) as database:
            for letter in await _found(database, letter_id):
                count += await letters.drop(database, letter)
                click.echo(f"{each.name}  {letter.id}  dropped")
    if letter_id is not None:
        _demand(count, letter_id)
    click.echo(f"{count} dropped")


def _services(name: str | None) -> list[Service]:
    return [each for each in registry.SERVICES if each.has_database and name in {None, each.name}]


async def _dead(service: str | None, letter_id: str | None = None) -> AsyncIterator[tuple[str, DeadLetter]]:
    settings = settings_in_force()
    for each in _services(service):
        async with opened(database_url(settings, each.name)) as database:
            for letter in await _found(database, letter_id):
                yield each.name, letter


async def _found(database: Database, letter_id: str | None) -> list[DeadLetter]:
    if letter_id is None:
        return await letters.find_all(database)
    letter = await letters.find(database, letter_id)
    return [] if letter is None else [letter]


def _which(letter_id: str | None, *, everything: bool) -> str | None:
    if (letter_id is None) == (not everything):
        raise click.UsageError("Name one dead letter by its id, or say --all.")
    return letter_id


def _demand(count: int, letter_id: str) -> None:
    if count == 0:
        raise click.ClickException(f"There is no dead letter {letter_id}.")


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _readable(message: bytes) -> str:
    try:
        return msgspec.json.format(message, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return repr(message)
