"""Signing up again with the same Idempotency-Key, after an answer was lost."""

import asyncio
from typing import Any

import httpx
import pytest

from admitone.kernel.runner import App
from tests.support import PASSWORD, messages_of, told_by


async def sign_up(
    client: httpx.AsyncClient, key: str, email: str = "alice@example.com", password: str = PASSWORD
) -> httpx.Response:
    credentials = {"email": email, "password": password}
    return await client.post("/api/users/signup", json=credentials, headers={"idempotency-key": key})


async def accounts(app: App) -> Any:
    return await app.running["auth"].database.fetchval("SELECT count(*) FROM account")


async def test_the_same_sign_up_again_gets_the_same_account_and_a_session(app: App) -> None:
    async with app.client() as first, app.client() as second:
        answers = [await sign_up(first, "key-1"), await sign_up(second, "key-1", "Alice@Example.com")]
        assert [each.status_code for each in answers] == [201, 201]
        assert answers[0].json() == answers[1].json()
        for client in (first, second):
            assert (await client.get("/api/users/currentuser")).json()["currentUser"] == answers[0].json()
    assert len(await told_by(app, "auth", "UserCreated")) == 1


async def test_at_once_they_make_one_account_and_all_are_answered(app: App) -> None:
    async def attempt() -> httpx.Response:
        async with app.client() as client:
            return await sign_up(client, "key-1")

    answers = await asyncio.gather(*(attempt() for _ in range(10)))
    assert [each.status_code for each in answers] == [201] * 10
    assert len({each.json()["id"] for each in answers}) == 1
    assert await accounts(app) == 1


@pytest.mark.parametrize(
    ("email", "password"), [("alice@example.com", "another password"), ("bob@example.com", PASSWORD)]
)
async def test_a_key_used_for_another_sign_up_is_refused(
    app: App, somebody: httpx.AsyncClient, email: str, password: str
) -> None:
    await sign_up(somebody, "key-1")
    async with app.client() as client:
        answer = await sign_up(client, "key-1", email, password)
        assert answer.status_code == 422
        assert messages_of(answer) == [("This Idempotency-Key was used for a different request", None)]
        assert "set-cookie" not in answer.headers
    assert await accounts(app) == 1


async def test_another_key_does_not_get_into_somebodys_account(app: App, somebody: httpx.AsyncClient) -> None:
    await sign_up(somebody, "key-1")
    async with app.client() as client:
        answer = await sign_up(client, "key-2")
        assert (answer.status_code, messages_of(answer)) == (400, [("Email in use", "email")])


@pytest.mark.parametrize("key", ["", "a" * 256, "tab\there", "\u00fcmlaut"])
async def test_a_key_must_be_a_key(app: App, somebody: httpx.AsyncClient, key: str) -> None:
    answer = await somebody.post(
        "/api/users/signup",
        json={"email": "alice@example.com", "password": PASSWORD},
        headers=[(b"idempotency-key", key.encode())],
    )
    assert (answer.status_code, messages_of(answer)) == (
        400,
        [("Idempotency-Key must be 1 to 255 visible characters", None)],
    )
    assert await accounts(app) == 0
