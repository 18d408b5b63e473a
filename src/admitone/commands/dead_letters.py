"""`admitone dead-letters`: events that a service could not handle, for an operator to decide about."""

import asyncio
from collections.abc import AsyncIterator

import click
import msgspec

from admitone import registry
from admitone.commands.connection import effective_settings, open_database
from admitone.commands.errors import report_errors
from admitone.kernel.messaging import dead_letters as store
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.dead_letters import DeadLetter
from admitone.kernel.messaging.event import Undecodable
from admitone.kernel.messaging.inbox import Inbox
from admitone.kernel.service import Service

_CONSUMERS = click.Choice([each.name for each in registry.SERVICES if each.has_database])
service_option = click.option("--service", type=_CONSUMERS, help="Only this service's dead letters.")


@click.group(name="dead-letters")
def dead_letters() -> None:
    """List, retry or drop events that a service could not handle.

    An event whose handler fails five times, or that waits half an hour for an earlier one, becomes a dead letter, so
    that it does not delay other events. When the cause is removed, retry it; drop it if it must never take effect:
    then later events of the same ticket, order or account do not wait for it.

    \b
    Examples:
      admitone dead-letters list
      admitone dead-letters show 019aa5f0-6f0e-7c3a-9d41-2a8f0c7be311
      admitone dead-letters retry --all --service orders
      admitone dead-letters drop orders:17
    """


@dead_letters.command(name="list")
@click.option("--waiting", is_flag=True, help="Events that failed and will be delivered again, instead.")
@service_option
@report_errors
def list_all(*, service: str | None, waiting: bool) -> None:
    """List dead letters, oldest first: service, id, subject, attempts, error.

    \b
    Examples:
      admitone dead-letters list
      admitone dead-letters list --service orders
      admitone dead-letters list --waiting
    """
    asyncio.run(_list(service, waiting=waiting))


async def _list(service: str | None, *, waiting: bool) -> None:
    count = 0
    async for name, letter in _each(service, waiting=waiting):
        count += 1
        click.echo(f"{name}  {letter.id}  {letter.subject}  {letter.attempts} attempts  {_first_line(letter.error)}")
    click.echo(f"{count} {'events wait' if waiting else 'dead letters'}")


@dead_letters.command
@click.argument("letter_id", metavar="ID")
@service_option
@report_errors
def show(*, letter_id: str, service: str | None) -> None:
    """Show one dead letter with its full error and its message.

    \b
    Examples:
      admitone dead-letters show 019aa5f0-6f0e-7c3a-9d41-2a8f0c7be311
    """
    asyncio.run(_show(letter_id, service))


async def _show(letter_id: str, service: str | None) -> None:
    count = 0
    async for name, letter in _each(service, letter_id):
        count += 1
        click.echo(f"service          {name}\nid               {letter.id}\nsubject          {letter.subject}")
        click.echo(f"attempts         {letter.attempts}\nfirst failed at  {letter.first_failed_at.isoformat()}")
        click.echo(f"last failed at   {letter.last_failed_at.isoformat()}\nerror            {letter.error}\n")
        click.echo(_readable(letter.message))
    _require(count, letter_id)


@dead_letters.command
@click.argument("letter_id", metavar="[ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@service_option
@report_errors
def retry(*, letter_id: str | None, everything: bool, service: str | None) -> None:
    """Handle dead letters again. Those that succeed are deleted; those that fail again remain.

    Exit code 1 if one failed again.

    \b
    Examples:
      admitone dead-letters retry 019aa5f0-6f0e-7c3a-9d41-2a8f0c7be311
      admitone dead-letters retry --all --service orders
    """
    if not asyncio.run(_retry(_selection(letter_id, everything=everything), service)):
        raise click.exceptions.Exit(1)


async def _retry(letter_id: str | None, service: str | None) -> bool:
    count, failed = 0, 0
    settings = effective_settings()
    for each in _services(service):
        async with open_database(settings, each.name) as database:
            inbox = Inbox(each.name, database, Bus(each.name), each.subscriptions)
            for letter in await store.find_all(database, letter_id):
                count += 1
                try:
                    await store.retry(database, inbox, letter)
                except Exception as error:  # noqa: BLE001 – the operator must see whatever the handler raises
                    failed += 1
                    reason = "it is not an event" if isinstance(error, Undecodable) else type(error).__name__
                    click.echo(f"{each.name}  {letter.id}  failed again: {reason}: {_first_line(str(error))}", err=True)
                else:
                    click.echo(f"{each.name}  {letter.id}  handled")
    if letter_id is not None:
        _require(count, letter_id)
    click.echo(f"{count - failed} handled, {failed} failed again")
    return not failed


@dead_letters.command
@click.argument("letter_id", metavar="[ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@service_option
@report_errors
def drop(*, letter_id: str | None, everything: bool, service: str | None) -> None:
    """Delete dead letters for good: their events never take effect.

    \b
    Examples:
      admitone dead-letters drop orders:17
      admitone dead-letters drop --all --service payments
    """
    asyncio.run(_drop(_selection(letter_id, everything=everything), service))


async def _drop(letter_id: str | None, service: str | None) -> None:
    count = 0
    settings = effective_settings()
    for each in _services(service):
        async with open_database(settings, each.name) as database:
            for letter in await store.find_all(database, letter_id):
                count += await store.drop(database, letter)
                click.echo(f"{each.name}  {letter.id}  dropped")
    if letter_id is not None:
        _require(count, letter_id)
    click.echo(f"{count} dropped")


def _services(name: str | None) -> list[Service]:
    return [each for each in registry.SERVICES if each.has_database and name in {None, each.name}]


async def _each(
    service: str | None, letter_id: str | None = None, *, waiting: bool = False
) -> AsyncIterator[tuple[str, DeadLetter]]:
    settings = effective_settings()
    for each in _services(service):
        async with open_database(settings, each.name) as database:
            for letter in await store.find_all(database, letter_id, waiting=waiting):
                yield each.name, letter


def _selection(letter_id: str | None, *, everything: bool) -> str | None:
    if (letter_id is None) == (not everything):
        raise click.UsageError("Name one dead letter by its id, or pass --all.")
    return letter_id


def _require(count: int, letter_id: str) -> None:
    if count == 0:
        raise click.ClickException(f"There is no dead letter {letter_id}.")


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _readable(message: bytes) -> str:
    try:
        return msgspec.json.format(message, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return repr(message)
