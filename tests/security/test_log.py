"""The log shows who signs in and what is refused, and never a password or an e-mail."""

import logging

import pytest

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.logs import JsonLines
from admitone.orders.service import SERVICE as ORDERS
from tests.engines import Databases
from tests.orders.support import consume, listed
from tests.support import PASSWORD, StartNats, id_of, running_app, sign_up, signed_in


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
    [refused] = [record for record in caplog.records if record.getMessage() == "refused"]
    assert vars(refused)["from"] == "127.0.0.1"
    lines = [JsonLines().format(record) for record in caplog.records]
    assert not [line for line in lines if "a guess" in line or PASSWORD in line or "@example.com" in line]
    assert not [line for line in lines if "\n" in line]


async def test_a_refusal_is_logged_with_the_account_and_the_address_that_the_proxy_saw(
    databases: Databases, start_nats: StartNats, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running_app(databases, start_nats, AUTH, ORDERS, trust_proxy=True) as app, signed_in(app, "eve") as eve:
        ticket = listed()
        await consume(app.running["orders"].database, ticket)
        async with signed_in(app, "bob") as bob:
            order = (await bob.post("/api/orders", json={"ticketId": str(ticket.id)})).json()["id"]
        forged = [("x-forwarded-for", "192.0.2.66"), ("x-forwarded-for", "192.0.2.67, 203.0.113.9")]
        assert (await eve.get(f"/api/orders/{order}", headers=forged)).status_code == 403
        eves_id = await id_of(eve)
    [refused] = [vars(record) for record in caplog.records if record.getMessage() == "refused"]
    assert (refused["from"], refused["account"]) == ("203.0.113.9", eves_id)
