"""Settings and logs: one clear line when something is missing, and no secret in any line."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from admitone.kernel.clock import now
from admitone.kernel.database.pool import connect_with_retries
from admitone.kernel.logs import JsonLines
from admitone.kernel.settings import Settings, SettingsError
from admitone.kernel.tracing import current_traceparent, trace_span
from tests.kernel.support import World, ended, kill, note
from tests.support import eventually


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ADMITONE_PORT", "eighty", "ADMITONE_PORT must be a whole number"),
        ("ADMITONE_PORT", "0", "ADMITONE_PORT must be between 1 and 65535"),
        ("ADMITONE_PORT", "65536", "ADMITONE_PORT must be between 1 and 65535"),
        ("ADMITONE_ORDER_WINDOW_SECONDS", "-1", "ADMITONE_ORDER_WINDOW_SECONDS must be between 1 and 86400"),
        ("ADMITONE_ORDER_WINDOW_SECONDS", "1.5", "ADMITONE_ORDER_WINDOW_SECONDS must be a whole number"),
        ("ADMITONE_CURRENCY", "doubloon", "ADMITONE_CURRENCY must be one of "),
        ("ADMITONE_ORIGIN", "tickets.example", "ADMITONE_ORIGIN must begin with http:// or https://"),
        ("ADMITONE_LOG_LEVEL", "LOUD", "ADMITONE_LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR"),
        ("STRIPE_SECRET_KEY_FILE", "/nowhere/at/all", "STRIPE_SECRET_KEY_FILE cannot be read: No such file"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_in_one_line(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({name: value})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_missing_setting_is_named_when_it_is_needed() -> None:
    settings = Settings.from_environment({})
    with pytest.raises(SettingsError, match="ADMITONE_ORDERS_DATABASE_URL is not set"):
        settings.database_url("orders")
    with pytest.raises(SettingsError, match="ADMITONE_ORDERS_NATS_URL is not set"):
        settings.nats_url("orders")


def test_a_secret_may_be_a_file_and_one_bus_address_may_serve_all(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("sk_test_1\n")
    settings = Settings.from_environment(
        {
            "STRIPE_SECRET_KEY_FILE": str(secret),
            "NATS_URL": "nats://bus",
            "ADMITONE_ORDERS_NATS_URL": "nats://own",
            "ADMITONE_ORIGIN": "https://tickets.example/",
            "ADMITONE_PORT": "",
        }
    )
    assert settings.stripe_secret_key == "sk_test_1"
    assert (settings.nats_url("tickets"), settings.nats_url("orders")) == ("nats://bus", "nats://own")
    assert (settings.public_origin, settings.is_https, settings.port) == ("https://tickets.example", True, 8000)


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n",
    ],
)
def test_a_malformed_trace_is_replaced_by_a_new_one(traceparent: str | None) -> None:
    with trace_span(traceparent) as here:
        assert current_traceparent() == here
        assert "0af7651916cd43dd8448eb211c80319c" not in here
    assert current_traceparent() is None


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Everything that is logged during a test, at the noisiest level."""
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


def test_a_line_is_one_json_object_with_its_ids_and_its_traceback(lines: io.StringIO) -> None:
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
    """Neither while everything is well nor while database and bus are away."""
    await world.relay()
    await world.inbox()
    await world.tell(note("seen"))
    await eventually(world.took_in(1), "beta took in the note")
    kill(world.nats)
    away = asyncio.create_task(
        connect_with_retries("postgresql://alpha:alpha-password@127.0.0.1:9/alpha", application="alpha", connections=1)
    )
    refused = await world.bus("beta")

    async def both_have_failed() -> bool:
        return "database is not reachable yet" in lines.getvalue() and "bus reports an error" in lines.getvalue()

    await eventually(both_have_failed, "the failures are logged")
    await ended(away)
    assert not refused.is_connected
    for secret in ("alpha-password", "beta-password", "postgres-password", "admin-password"):
        assert secret not in lines.getvalue()
