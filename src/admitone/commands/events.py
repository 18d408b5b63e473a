"""`admitone events`: the catalogue of events."""

import click
import msgspec

from admitone.catalogue import shipped, subscribers, watchers
from admitone.commands.errors import report_errors
from admitone.kernel.messaging.event import Event, subject_of


@click.command
@click.argument("name", metavar="[EVENT]", required=False)
@report_errors
def events(*, name: str | None) -> None:
    """Show every event with its producer, consumers and fields; with a name, the event's JSON schema.

    \b
    Examples:
      admitone events
      admitone events OrderCreated
    """
    known = {each.__name__: each for each in shipped()}
    if name is None:
        for event in known.values():
            _describe(event)
    elif name in known:
        schema = msgspec.json.encode(msgspec.json.schema(known[name]))
        click.echo(msgspec.json.format(schema, indent=2).decode())
    else:
        raise click.BadParameter(f"There is no event {name}; `admitone events` lists them.", param_hint="EVENT")


def _describe(event: type[Event]) -> None:
    assert event.__doc__
    fields = ", ".join(each.encode_name for each in msgspec.structs.fields(event))
    click.echo(click.style(event.__name__, bold=True))
    click.echo(f"  {event.__doc__.strip()}")
    click.echo(f"  published by  {event.producer}, on {subject_of(event)}")
    click.echo(f"  consumed by   {', '.join((*subscribers(event), *watchers()))}")
    click.echo(f"  fields        {fields}\n")
