"""Help texts, the catalogue of events, and errors for wrong arguments."""

import json
import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner, Result

from admitone import events, registry
from admitone.__main__ import main
from admitone.kernel.messaging.event import event_types
from tests import whole

COMMANDS = (
    "up",
    "serve",
    "migrate",
    "demo",
    "check",
    "replay",
    "resync",
    "recover",
    "reset-password",
    "dead-letters",
    "adopt",
    "events",
)


def run(*arguments: str) -> Result:
    """Run an `admitone` command in this process, where no setting is set."""
    return CliRunner().invoke(main, arguments, prog_name="admitone")


def test_the_program_is_the_command() -> None:
    shown = whole.run("--help")
    assert shown.returncode == 0
    assert (
        shown.stdout.split("Examples:")[0].split("\n", 1)[1]
        == run("--help").stdout.split("Examples:")[0].split("\n", 1)[1]
    )


def test_the_help_lists_every_command_for_operators() -> None:
    output = run("--help").stdout
    for command in COMMANDS:
        assert f"\n  {command} " in output
    assert "sandbox" not in output


def pages(command: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Return the arguments that lead to each command, of which none is forgotten."""
    yield path
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from pages(each, (*path, name))


def examples(path: tuple[str, ...]) -> list[str]:
    """Return the lines below "Examples:" on a help page, up to the next empty line."""
    shown = run(*path, "--help")
    assert shown.exit_code == 0
    assert "\\b" not in shown.stdout
    _, heading, rest = shown.stdout.partition("  Examples:\n")
    assert heading, shown.stdout
    return [line.strip() for line in rest.partition("\n\n")[0].splitlines()]


def parse(words: list[str]) -> list[str]:
    """Parse arguments as the program does, without running the command; return the names of the commands."""
    command: click.Command = main
    context, names = None, list[str]()
    while True:
        arguments = words
        if isinstance(command, click.Group):
            arguments, words = words[:1], words[1:]
        context = command.make_context(names[-1] if names else "admitone", list(arguments), parent=context)
        if not isinstance(command, click.Group):
            return names
        found = command.get_command(context, arguments[0]) if arguments else None
        assert found is not None, arguments
        command, names = found, [*names, arguments[0]]


@pytest.mark.parametrize("path", list(pages()), ids=" ".join)
def test_every_example_of_a_help_page_is_a_line_that_the_command_accepts(path: tuple[str, ...]) -> None:
    shown = examples(path)
    assert shown
    for line in shown:
        # Variables may stand before the command, and a comment two spaces behind it.
        variables, program, arguments = line.partition("  ")[0].partition("admitone ")
        assert program, line
        assert all(name.isupper() for name in (each.partition("=")[0] for each in variables.split()))
        assert parse(shlex.split(arguments))[: len(path)] == list(path)


@pytest.mark.parametrize(
    "arguments", [("fly",), ("serve", "ponies"), ("serve",), ("up", "--port", "0"), ("replay", "web")]
)
def test_wrong_arguments_are_exit_code_2(arguments: tuple[str, ...]) -> None:
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "Usage: " in refused.stderr


def test_the_catalogue_has_every_event_with_its_producer_and_consumers() -> None:
    output = run("events").stdout
    for name, event in event_types().items():
        if event.__module__ == events.__name__:
            assert f"{name}\n" in output
    published = "published by  orders, on events.orders.OrderCreated\n"
    assert f"{published}  consumed by   tickets, expiration, payments, web\n" in output


def test_the_schema_of_an_event_is_json() -> None:
    schema = json.loads(run("events", "OrderCreated").stdout)
    assert "expiresAt" in schema["$defs"]["OrderCreated"]["properties"]
    assert run("events", "OrderForgotten").exit_code == 2


def test_a_service_without_settings_names_the_missing_one() -> None:
    refused = run("serve", "orders")
    assert refused.exit_code == 2
    assert "ADMITONE_ORDERS_DATABASE_URL is not set" in refused.stderr


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_the_help_of_a_command_lists_the_services(command: str) -> None:
    listed = run(command, "--help").stdout
    services = [each.name for each in registry.SERVICES if command == "serve" or each.has_database]
    assert ", ".join(services) in listed.replace("\n  ", " ")


def test_all_six_services_are_known() -> None:
    names = [each.name for each in registry.SERVICES]
    assert names[:6] == ["auth", "tickets", "orders", "expiration", "payments", "web"]
