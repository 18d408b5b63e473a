"""What people read before anything runs: help with examples, the catalogue of events, plain refusals."""

import json

import pytest

from admitone import events, registry
from admitone.kernel.messaging.event import event_types
from tests.whole import run

COMMANDS = ("up", "serve", "migrate", "demo", "check", "replay", "dead-letters", "events")


def test_the_help_lists_every_command_and_none_that_is_not_for_people() -> None:
    said = run("--help").stdout
    for command in COMMANDS:
        assert f"\n  {command} " in said
    assert "sandbox" not in said


@pytest.mark.parametrize(
    "words",
    [*((command,) for command in COMMANDS), *(("dead-letters", each) for each in ("list", "show", "retry", "drop"))],
)
def test_every_command_explains_itself_with_an_example(words: tuple[str, ...]) -> None:
    said = run(*words, "--help")
    assert said.returncode == 0
    assert "Example" in said.stdout
    assert f"admitone {' '.join(words)}" in said.stdout


@pytest.mark.parametrize("words", [("fly",), ("serve", "ponies"), ("serve",), ("up", "--port", "0"), ("replay", "web")])
def test_what_makes_no_sense_is_exit_code_2(words: tuple[str, ...]) -> None:
    refused = run(*words)
    assert refused.returncode == 2
    assert "Usage: " in refused.stderr


def test_the_catalogue_has_every_event_with_who_tells_and_hears_it() -> None:
    said = run("events").stdout
    for name, event in event_types().items():
        if event.__module__ == events.__name__:
            assert f"{name}\n" in said
    assert "told by    orders, on events.orders.OrderCreated\n  heard by   tickets, expiration, payments, web\n" in said


def test_an_events_schema_is_json() -> None:
    schema = json.loads(run("events", "OrderCreated").stdout)
    assert "expiresAt" in schema["$defs"]["OrderCreated"]["properties"]
    assert run("events", "OrderForgotten").returncode == 2


def test_a_service_that_is_told_nothing_says_what_is_missing() -> None:
    refused = run("serve", "orders")
    assert refused.returncode == 2
    assert "ADMITONE_ORDERS_DATABASE_URL is not set" in refused.stderr


def test_all_six_services_are_known() -> None:
    assert [each.name for each in registry.SERVICES] == ["auth", "tickets", "orders", "expiration", "payments", "web"]
