"""Logs: one JSON object per line, and no secret in any line."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from admitone.kernel import logs
from admitone.kernel.clock import now
from admitone.kernel.database.pool import connect_with_retries
from admitone.kernel.logs import JsonLines
from admitone.kernel.tracing import trace_span
from tests.kernel.support import World, ended, kill, note
from tests.support import eventually


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged during a test, at the lowest level."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.setLevel(level)
    root.removeHandler(handler)


async def test_a_traceback_does_not_quote_the_rows_of_a_failed_statement(world: World, lines: io.StringIO) -> None:
    add = "INSERT INTO applied_migration (name) VALUES ($1)"
    email = "alice@example.com"  # the traceback shows the line of the call
    connection = await asyncpg.connect(world.alpha_fresh.migrator_url)
    try:
        await connection.execute(add, email)
        with pytest.raises(asyncpg.UniqueViolationError, match=r"DETAIL: .*alice@example\.com") as caught:
            await connection.execute(add, email)
        failed = ExceptionGroup("handlers failed", [RuntimeError("another"), caught.value])
        logging.getLogger("admitone.test").error("failed", exc_info=failed)
    finally:
        await connection.close()
    assert "applied_migration_pkey" in lines.getvalue()
    assert email not in lines.getvalue()


def test_a_line_is_one_json_object_with_its_trace_and_its_traceback(lines: io.StringIO) -> None:
    with trace_span("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
        try:
            assert 1 // 0
        except ZeroDivisionError:
            logging.getLogger("admitone.test").exception("failed\nbadly", extra={"when": now(), "order": {1, 2}})
    [written] = lines.getvalue().splitlines()
    line = json.loads(written)
    assert line["message"] == "failed\nbadly"
    assert line["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert "ZeroDivisionError" in line["exception"]


async def test_no_password_is_ever_logged(world: World, lines: io.StringIO) -> None:
    """Neither in normal operation nor while database and bus are unreachable."""
    await world.relay()
    await world.inbox()
    await world.publish(note("seen"))
    await eventually(world.consumed(1), "beta consumes the note")
    kill(world.nats)
    waiting = asyncio.create_task(
        connect_with_retries("postgresql://alpha:alpha-password@127.0.0.1:9/alpha", application="alpha", connections=1)
    )
    refused = await world.bus("beta")

    async def both_have_failed() -> bool:
        return (
            "the database is not reachable yet" in lines.getvalue()
            and "the bus client reports an error" in lines.getvalue()
        )

    await eventually(both_have_failed, "the failures are logged")
    await ended(waiting)
    assert not refused.is_connected
    for secret in ("alpha-password", "beta-password", "postgres-password", "admin-password"):
        assert secret not in lines.getvalue()


def test_libraries_log_warnings_and_the_application_what_is_configured(tmp_path: Path) -> None:
    file = tmp_path / "log"
    root = logging.getLogger()
    handlers, level, own_level = root.handlers[:], root.level, logging.getLogger("admitone").level
    try:
        logs.configure("INFO", file)
        logging.getLogger("httpx").info("a request")
        logging.getLogger("httpx").warning("a strange request")
        logging.getLogger("admitone.kernel").info("a fact")
        logging.getLogger("admitone.kernel").debug("a detail")
        for handler in root.handlers:
            handler.close()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.getLogger("admitone").setLevel(own_level)
    assert [json.loads(line)["message"] for line in file.read_text().splitlines()] == ["a strange request", "a fact"]
