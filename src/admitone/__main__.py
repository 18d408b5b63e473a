"""The command `admitone`."""

from typing import Any

import click

from admitone import __version__
from admitone.commands.adopt import adopt
from admitone.commands.check import check
from admitone.commands.dead_letters import dead_letters
from admitone.commands.demo import demo
from admitone.commands.errors import quiet_when_unread
from admitone.commands.events import events
from admitone.commands.migrate import migrate
from admitone.commands.recover import recover
from admitone.commands.replay import replay
from admitone.commands.reset_password import reset_password
from admitone.commands.resync import resync
from admitone.commands.serve import serve
from admitone.commands.up import up


class _Program(click.Group):
    """Ends quietly, at every command and help page, when the reader of its output has gone."""

    @quiet_when_unread
    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        return super().make_context(*arguments, **options)

    @quiet_when_unread
    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="admitone")
def main() -> None:
    """AdmitOne: a ticket resale marketplace that never sells a ticket twice.

    \b
    Examples:
      admitone up            the whole marketplace on this machine
      admitone demo          fill it with people and tickets
      admitone check         check that nothing was sold twice
    """


for command in (up, serve, migrate, demo, check, replay, resync, recover, reset_password, dead_letters, adopt, events):
    main.add_command(command)


if __name__ == "__main__":
    main()
