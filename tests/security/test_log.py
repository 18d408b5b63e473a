"""The log shows who signs in and what is refused, and never a password or an e-mail."""

import logging

import pytest

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.logs import JsonLines
from tests.engines import Databases
from tests.support import PASSWORD, StartNats, running_app, sign_up


async def test_sign_ins_and_refusals_are_logged_without_the_input(
    databases: Databases, start_nats: StartNats, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running_app(databases, start_nats, AUTH) as app, app.client() as alice, app.client() as eve:
        await sign_up(alice, "alice@example.com")
        for email in ("alice@example.com", "nobody@example.com"):
            await eve.post("/api/users/signin", json={"email": email, "password": "a guess\nof hers"})
        await eve.post("/api/users/signout-everywhere")
        await alice.post("/api/users/signout-everywhere")
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("admitone")]
    for message, times in (("session started", 1), ("sign-in refused", 2), ("refused", 1), ("session ended", 1)):
        assert logged.count(message) == times, message
    lines = [JsonLines().format(record) for record in caplog.records]
    assert not [line for line in lines if "a guess" in line or PASSWORD in line or "@example.com" in line]
    assert not [line for line in lines if "\n" in line]
