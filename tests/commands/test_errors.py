"""How commands end when something outside is wrong."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from admitone import registry
from tests.engines import Databases
from tests.whole import ROOT, run

NOWHERE = "postgresql://anybody:a-password@127.0.0.1:9/orders"
STORING = [each.name for each in registry.SERVICES if each.has_database]
COMMANDS = [("check",), ("replay",), ("resync", "tickets"), ("dead-letters", "list"), ("migrate",)]


def one_line(ended: subprocess.CompletedProcess[str]) -> str:
    """Return the message of a command that could not run."""
    assert ended.returncode == 2, ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert "a-password" not in ended.stderr
    return ended.stderr


def urls(url: str) -> dict[str, str]:
    return {f"ADMITONE_{service.upper()}_DATABASE_URL": url for service in STORING}


@pytest.mark.parametrize(
    "arguments", [("events",), ("events", "OrderCreated"), ("--help",), ("dead-letters", "--help")]
)
def test_a_command_whose_output_is_not_read_ends_quietly(arguments: tuple[str, ...], folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as unread:
        ended = subprocess.run(
            [sys.executable, "-m", "admitone", *arguments],
            stdout=unread,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=ROOT,
            env={"ADMITONE_DATA": str(folder)},
            timeout=60,
        )
    assert ended.stderr == ""
    assert ended.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_an_unreachable_database_is_named(arguments: tuple[str, ...], folder: Path) -> None:
    message = one_line(run(*arguments, ADMITONE_DATA=str(folder), **urls(NOWHERE)))
    assert "at 127.0.0.1:9 cannot be reached: Connection refused. Start it, or correct ADMITONE_" in message


@pytest.mark.parametrize("arguments", [*COMMANDS, ("serve", "orders")], ids=" ".join)
@pytest.mark.parametrize("url", ["mysql://anybody:a-password@db/orders", "postgresql://u:a-password/x@db/orders"])
def test_a_url_of_something_else_is_refused(arguments: tuple[str, ...], url: str, folder: Path) -> None:
    message = one_line(run(*arguments, ADMITONE_DATA=str(folder), NATS_URL="nats://127.0.0.1:9", **urls(url)))
    assert "_DATABASE_URL must be a URL such as postgresql://" in message


@pytest.mark.parametrize("arguments", [("serve", "orders"), ("migrate", "orders"), ("replay", "orders")], ids=" ".join)
async def test_a_wrong_password_is_reported_with_the_server_that_refuses_it(
    arguments: tuple[str, ...], databases: Databases, folder: Path
) -> None:
    url = (await databases.fresh("orders")).url
    address = url.partition("@")[2].partition("/")[0]
    wrong = url.replace("orders-password", "a-password")
    environment = {"ADMITONE_DATA": str(folder), "NATS_URL": "nats://127.0.0.1:9", **urls(wrong)}
    message = one_line(await asyncio.to_thread(run, *arguments, **environment))
    assert f"The database of orders at {address} refuses the connection: password authentication failed" in message
    assert "Correct ADMITONE_ORDERS_DATABASE_URL." in message


@pytest.mark.parametrize("url", ["amqp://127.0.0.1:5672", "nats://127.0.0.1:many"])
def test_a_bus_of_another_kind_is_refused(url: str, folder: Path) -> None:
    ended = run("up", ADMITONE_DATA=str(folder / "data"), NATS_URL=url)
    assert one_line(ended) == "Error: NATS_URL must be a URL such as nats://user:password@host:4222\n"
