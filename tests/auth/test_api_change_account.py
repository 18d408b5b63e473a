"""Changing an account's e-mail and password."""

import asyncio

import httpx
import pytest

from admitone.kernel.runner import App
from tests.auth.support import signed_in_email, try_sign_in
from tests.support import PASSWORD, id_of, messages_of, published_by, set_token, sign_in, sign_up, signed_in

NEW_PASSWORD = "a completely different one"


async def change(client: httpx.AsyncClient, **fields: object) -> httpx.Response:
    return await client.put("/api/users/currentuser", json={"currentPassword": PASSWORD, **fields})


async def test_a13_a_new_email_takes_effect_immediately(
    app: App, alice: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    alice_id = await id_of(alice)
    response = await change(alice, email="Alice@Example.ORG")
    assert (response.status_code, response.json()) == (200, {"id": str(alice_id), "email": "alice@example.org"})
    assert await signed_in_email(alice) == "alice@example.org"
    assert (await try_sign_in(visitor, "alice@example.com", PASSWORD)).status_code == 400
    assert (await try_sign_in(visitor, "alice@example.org", PASSWORD)).status_code == 200


async def test_a13_a_new_email_keeps_the_session_and_its_expiry(app: App, alice: httpx.AsyncClient) -> None:
    sessions = app.running["auth"].sessions
    before = await sessions.user(alice.cookies["session"])
    await change(alice, email="alice@example.org")
    after = await sessions.user(alice.cookies["session"])
    assert before is not None
    assert after is not None
    assert (after.session_id, after.expires_at) == (before.session_id, before.expires_at)
    await alice.post("/api/users/signout")
    assert await sessions.user(alice.cookies.get("session")) is None


async def test_a13_the_old_email_becomes_available(alice: httpx.AsyncClient, visitor: httpx.AsyncClient) -> None:
    await change(alice, email="alice@example.org")
    await sign_up(visitor, "alice@example.com")
    assert await id_of(visitor) != await id_of(alice)


async def test_a13_the_same_email_again_changes_nothing(app: App, alice: httpx.AsyncClient) -> None:
    response = await change(alice, email="ALICE@example.com")
    assert (response.status_code, response.json()["email"]) == (200, "alice@example.com")
    assert await published_by(app, "auth", "UserUpdated") == []
    assert await signed_in_email(alice) == "alice@example.com"


async def test_a13_an_email_in_use_is_refused(app: App, alice: httpx.AsyncClient) -> None:
    async with app.client() as bob:
        await sign_up(bob, "bob@example.com")
        response = await change(bob, email="Alice@example.com", password=NEW_PASSWORD)
        assert (response.status_code, messages_of(response)) == (400, [("Email in use", "email")])
        assert await signed_in_email(bob) == "bob@example.com"
        assert (await try_sign_in(bob, "bob@example.com", PASSWORD)).status_code == 200


async def test_a13_of_two_concurrent_changes_to_one_email_one_is_refused(app: App, alice: httpx.AsyncClient) -> None:
    async with app.client() as bob:
        await sign_up(bob, "bob@example.com")
        responses = await asyncio.gather(*(change(each, email="best@example.com") for each in (alice, bob)))
        assert sorted(response.status_code for response in responses) == [200, 400]
        assert [await signed_in_email(alice), await signed_in_email(bob)].count("best@example.com") == 1


async def test_a13_a_new_password_replaces_the_old_one(alice: httpx.AsyncClient, visitor: httpx.AsyncClient) -> None:
    assert (await change(alice, password=NEW_PASSWORD)).status_code == 200
    assert await signed_in_email(alice) == "alice@example.com"
    assert (await try_sign_in(visitor, "alice@example.com", PASSWORD)).status_code == 400
    assert (await try_sign_in(visitor, "alice@example.com", NEW_PASSWORD)).status_code == 200


async def test_a13_a_new_password_ends_the_other_sessions_only(
    app: App, alice: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    await sign_in(visitor, "alice@example.com")
    async with app.client() as bob:
        await sign_up(bob, "bob@example.com")
        await change(alice, password=NEW_PASSWORD)
        assert [await signed_in_email(each) for each in (alice, visitor, bob)] == [
            "alice@example.com",
            None,
            "bob@example.com",
        ]
    assert len(await published_by(app, "auth", "SessionRevoked")) == 1


async def test_a13_a_new_email_and_password_are_one_change(app: App, alice: httpx.AsyncClient) -> None:
    assert (await change(alice, email="alice@example.org", password=NEW_PASSWORD)).status_code == 200
    (event,) = await published_by(app, "auth", "UserUpdated")
    assert (event["email"], event["version"]) == ("alice@example.org", 1)
    await sign_in(alice, "alice@example.org", NEW_PASSWORD)


async def test_a13_no_session_started_with_the_old_password_survives_its_change(
    app: App, alice: httpx.AsyncClient
) -> None:
    """A concurrent sign-in with the old password is either refused or ended with the other sessions."""

    async def race() -> httpx.AsyncClient:
        client = app.client()
        await try_sign_in(client, "alice@example.com", PASSWORD)
        return client

    async with asyncio.TaskGroup() as tasks:
        changing = tasks.create_task(change(alice, password=NEW_PASSWORD))
        racing = [tasks.create_task(race()) for _ in range(4)]
    racers = [task.result() for task in racing]
    assert changing.result().status_code == 200
    assert [await signed_in_email(racer) for racer in racers] == [None] * 4
    assert await signed_in_email(alice) == "alice@example.com"
    for racer in racers:
        await racer.aclose()


async def test_a13_a_concurrent_change_is_applied_or_refused_but_never_lost(
    app: App, alice: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    set_token(visitor, alice.cookies["session"])
    emails = ["alice@example.org", "alice@example.net"]
    responses = await asyncio.gather(
        *(change(client, email=email) for client, email in zip((alice, visitor), emails, strict=True))
    )
    statuses = [response.status_code for response in responses]
    assert set(statuses) <= {200, 409}
    events = await published_by(app, "auth", "UserUpdated")
    assert len(events) == statuses.count(200) >= 1
    assert [each["version"] for each in events] == list(range(1, len(events) + 1))


async def test_a13_the_current_password_is_required(alice: httpx.AsyncClient) -> None:
    fields = {"email": "alice@example.org", "password": NEW_PASSWORD}
    response = await alice.put("/api/users/currentuser", json=fields)
    assert (response.status_code, messages_of(response)) == (
        400,
        [("You must supply your current password", "currentPassword")],
    )
    response = await alice.put("/api/users/currentuser", json={"currentPassword": PASSWORD + "!", **fields})
    assert (response.status_code, messages_of(response)) == (400, [("Invalid credentials", "currentPassword")])
    assert await signed_in_email(alice) == "alice@example.com"
    await sign_in(alice, "alice@example.com")


@pytest.mark.parametrize("fields", [{}, {"email": None}, {"email": None, "password": None}])
async def test_a13_an_empty_change_is_refused(alice: httpx.AsyncClient, fields: dict[str, None]) -> None:
    response = await change(alice, **fields)
    assert (response.status_code, messages_of(response)) == (400, [("Give a new email, a new password, or both", None)])


async def test_a13_the_rules_of_signing_up_apply(alice: httpx.AsyncClient) -> None:
    response = await change(alice, email="alice", password="short")
    assert messages_of(response) == [
        ("Email must be valid", "email"),
        ("Password must be between 8 and 128 characters", "password"),
    ]


async def test_a13_a_visitor_and_a_user_without_an_account_are_not_signed_in(
    app: App, visitor: httpx.AsyncClient
) -> None:
    async with signed_in(app, "ghost") as ghost:
        for client in (visitor, ghost):
            response = await change(client, email="ghost@example.org")
            assert (response.status_code, messages_of(response)) == (401, [("Not authorized", None)])


async def test_a13_authentication_is_checked_before_the_body_is_parsed(visitor: httpx.AsyncClient) -> None:
    assert (await visitor.put("/api/users/currentuser", content=b"{")).status_code == 401
