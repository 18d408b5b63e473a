"""Changing one's e-mail and password."""

import asyncio

import httpx
import pytest

from admitone.kernel.runner import App
from tests.support import PASSWORD, id_of, messages_of, set_token, sign_in, sign_up, signed_in, told_by

NEW_PASSWORD = "a completely different one"


async def who(client: httpx.AsyncClient) -> str | None:
    user = (await client.get("/api/users/currentuser")).json()["currentUser"]
    return None if user is None else str(user["email"])


async def change(client: httpx.AsyncClient, **fields: object) -> httpx.Response:
    return await client.put("/api/users/currentuser", json={"currentPassword": PASSWORD, **fields})


async def try_to_sign_in(client: httpx.AsyncClient, email: str, password: str) -> int:
    return (await client.post("/api/users/signin", json={"email": email, "password": password})).status_code


async def test_u5_a_new_email_takes_effect_at_once(
    app: App, alice: httpx.AsyncClient, somebody: httpx.AsyncClient
) -> None:
    alice_id = await id_of(alice)
    answer = await change(alice, email="Alice@Example.ORG")
    assert (answer.status_code, answer.json()) == (200, {"id": str(alice_id), "email": "alice@example.org"})
    assert await who(alice) == "alice@example.org"
    assert await try_to_sign_in(somebody, "alice@example.com", PASSWORD) == 400
    assert await try_to_sign_in(somebody, "alice@example.org", PASSWORD) == 200


async def test_u5_a_new_email_keeps_the_session_and_its_end(app: App, alice: httpx.AsyncClient) -> None:
    identity = app.running["auth"].sessions
    before = await identity.person(alice.cookies["session"])
    await change(alice, email="alice@example.org")
    after = await identity.person(alice.cookies["session"])
    assert before is not None
    assert after is not None
    assert (after.session_id, after.expires_at) == (before.session_id, before.expires_at)
    await alice.post("/api/users/signout")
    assert await identity.person(alice.cookies.get("session")) is None


async def test_u5_the_old_email_is_free_for_somebody_else(
    alice: httpx.AsyncClient, somebody: httpx.AsyncClient
) -> None:
    await change(alice, email="alice@example.org")
    await sign_up(somebody, "alice@example.com")
    assert await id_of(somebody) != await id_of(alice)


async def test_u5_the_same_email_again_changes_nothing(app: App, alice: httpx.AsyncClient) -> None:
    answer = await change(alice, email="ALICE@example.com")
    assert (answer.status_code, answer.json()["email"]) == (200, "alice@example.com")
    assert await told_by(app, "auth", "UserUpdated") == []
    assert await who(alice) == "alice@example.com"


async def test_u5_somebody_elses_email_is_refused(app: App, alice: httpx.AsyncClient) -> None:
    async with app.client() as bob:
        await sign_up(bob, "bob@example.com")
        answer = await change(bob, email="Alice@example.com", password=NEW_PASSWORD)
        assert (answer.status_code, messages_of(answer)) == (400, [("Email in use", "email")])
        assert await who(bob) == "bob@example.com"
        assert await try_to_sign_in(bob, "bob@example.com", PASSWORD) == 200


async def test_u5_two_who_want_one_email_cannot_both_have_it(app: App, alice: httpx.AsyncClient) -> None:
    async with app.client() as bob:
        await sign_up(bob, "bob@example.com")
        answers = await asyncio.gather(*(change(each, email="best@example.com") for each in (alice, bob)))
        assert sorted(answer.status_code for answer in answers) == [200, 400]
        assert [await who(alice), await who(bob)].count("best@example.com") == 1


async def test_u5_a_new_password_replaces_the_old(alice: httpx.AsyncClient, somebody: httpx.AsyncClient) -> None:
    assert (await change(alice, password=NEW_PASSWORD)).status_code == 200
    assert await who(alice) == "alice@example.com"
    assert await try_to_sign_in(somebody, "alice@example.com", PASSWORD) == 400
    assert await try_to_sign_in(somebody, "alice@example.com", NEW_PASSWORD) == 200


async def test_u5_a_new_password_ends_the_other_sessions_only(
    app: App, alice: httpx.AsyncClient, somebody: httpx.AsyncClient
) -> None:
    await sign_in(somebody, "alice@example.com")
    async with app.client() as bob:
        await sign_up(bob, "bob@example.com")
        await change(alice, password=NEW_PASSWORD)
        assert [await who(each) for each in (alice, somebody, bob)] == ["alice@example.com", None, "bob@example.com"]
    assert len(await told_by(app, "auth", "SessionRevoked")) == 1


async def test_u5_both_at_once_is_one_change(app: App, alice: httpx.AsyncClient) -> None:
    assert (await change(alice, email="alice@example.org", password=NEW_PASSWORD)).status_code == 200
    (told,) = await told_by(app, "auth", "UserUpdated")
    assert (told["email"], told["version"]) == ("alice@example.org", 1)
    await sign_in(alice, "alice@example.org", NEW_PASSWORD)


async def test_u5_no_session_of_the_old_password_survives_its_change(app: App, alice: httpx.AsyncClient) -> None:
    """Whoever signs in with the old password while it is changed is too late, or is signed out with the others."""

    async def race() -> httpx.AsyncClient:
        client = app.client()
        await try_to_sign_in(client, "alice@example.com", PASSWORD)
        return client

    async with asyncio.TaskGroup() as together:
        changing = together.create_task(change(alice, password=NEW_PASSWORD))
        racing = [together.create_task(race()) for _ in range(4)]
    racers = [task.result() for task in racing]
    assert changing.result().status_code == 200
    assert [await who(racer) for racer in racers] == [None] * 4
    assert await who(alice) == "alice@example.com"
    for racer in racers:
        await racer.aclose()


async def test_u5_of_two_changes_at_once_none_is_lost_in_silence(
    app: App, alice: httpx.AsyncClient, somebody: httpx.AsyncClient
) -> None:
    set_token(somebody, alice.cookies["session"])
    emails = ["alice@example.org", "alice@example.net"]
    answers = await asyncio.gather(
        *(change(client, email=email) for client, email in zip((alice, somebody), emails, strict=True))
    )
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 409}
    told = await told_by(app, "auth", "UserUpdated")
    assert len(told) == statuses.count(200) >= 1
    assert [each["version"] for each in told] == list(range(1, len(told) + 1))


async def test_u5_the_present_password_is_asked_for(alice: httpx.AsyncClient) -> None:
    fields = {"email": "alice@example.org", "password": NEW_PASSWORD}
    answer = await alice.put("/api/users/currentuser", json=fields)
    assert (answer.status_code, messages_of(answer)) == (
        400,
        [("You must supply your current password", "currentPassword")],
    )
    answer = await alice.put("/api/users/currentuser", json={"currentPassword": PASSWORD + "!", **fields})
    assert (answer.status_code, messages_of(answer)) == (400, [("Invalid credentials", "currentPassword")])
    assert await who(alice) == "alice@example.com"
    await sign_in(alice, "alice@example.com")


@pytest.mark.parametrize("fields", [{}, {"email": None}, {"email": None, "password": None}])
async def test_u5_something_must_change(alice: httpx.AsyncClient, fields: dict[str, None]) -> None:
    answer = await change(alice, **fields)
    assert (answer.status_code, messages_of(answer)) == (400, [("Give a new email, a new password, or both", None)])


async def test_u5_the_rules_are_those_of_signing_up(alice: httpx.AsyncClient) -> None:
    answer = await change(alice, email="alice", password="short")
    assert messages_of(answer) == [
        ("Email must be valid", "email"),
        ("Password must be between 8 and 128 characters", "password"),
    ]


async def test_u5_nobody_and_an_account_that_is_gone_are_not_signed_in(app: App, somebody: httpx.AsyncClient) -> None:
    async with signed_in(app, "ghost") as ghost:
        for client in (somebody, ghost):
            answer = await change(client, email="ghost@example.org")
            assert (answer.status_code, messages_of(answer)) == (401, [("Not authorized", None)])


async def test_u5_who_is_not_signed_in_is_told_so_before_the_body_is_read(somebody: httpx.AsyncClient) -> None:
    assert (await somebody.put("/api/users/currentuser", content=b"{")).status_code == 401
