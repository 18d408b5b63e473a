"""What whoever looks for attacks afterwards finds in the log, and what nobody finds there."""

import logging

import pytest

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.logs import JsonLines
from tests.engines import Databases
from tests.support import PASSWORD, StartNats, running_app, sign_up


async def test_who_signs_in_or_is_refused_is_noted_without_what_they_typed(
    databases: Databases, start_nats: StartNats, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running_app(databases, start_nats, AUTH) as app, app.client() as alice, app.client() as eve:
        await sign_up(alice, "alice@example.com")
        for email in ("alice@example.com", "nobody@example.com"):
            await eve.post("/api/users/signin", json={"email": email, "password": "a guess\nof hers"})
        await eve.post("/api/users/signout-everywhere")
        await alice.post("/api/users/signout-everywhere")
    noted = [record.getMessage() for record in caplog.records if record.name.startswith("admitone")]
    for message, times in (("session begins", 1), ("signing in refused", 2), ("refused", 1), ("session ends", 1)):
        assert noted.count(message) == times, message
    lines = [JsonLines().format(record) for record in caplog.records]
    assert not [line for line in lines if "a guess" in line or PASSWORD in line or "@example.com" in line]
    assert not [line for line in lines if "\n" in line]
