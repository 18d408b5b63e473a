"""Signing up: the rules of e-mails and passwords, and repeated requests with an Idempotency-Key."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest

from admitone.kernel.runner import App
from tests.auth.support import signed_in_email
from tests.support import PASSWORD, messages_of, published_by, sign_in, sign_up

PASSWORD_RULE = ("Password must be between 8 and 128 characters", "password")
EMAIL_RULE = ("Email must be valid", "email")


async def test_a01_sign_up_returns_201_and_the_account(visitor: httpx.AsyncClient) -> None:
    response = await visitor.post("/api/users/signup", json={"email": "alice@example.com", "password": PASSWORD})
    assert response.status_code == 201
    assert response.json() == {"id": str(UUID(response.json()["id"])), "email": "alice@example.com"}


@pytest.mark.parametrize(
    "email",
    [
        "alice",
        "alice@",
        "@example.com",
        "alice@example",
        "alice@@example.com",
        "al ice@example.com",
        "alice@exam ple.com",
        "alice@example..com",
        ".alice@example.com",
        "alice.@example.com",
        "alice@-example.com",
        "alice@example.com\nbcc: bob@example.com",
        "al\u202eice@example.com",
        "<alice@example.com>",
        f"{'a' * 65}@example.com",
        f"alice@{'a' * 64}.com",
        f"alice@{'.'.join(['a' * 60] * 5)}.com",
        f"{'ü' * 32}@{'.'.join(['ü' * 50] * 5)}.com",
        "",
    ],
)
async def test_a02_a_bad_email_is_refused(visitor: httpx.AsyncClient, email: str) -> None:
    response = await visitor.post("/api/users/signup", json={"email": email, "password": PASSWORD})
    assert (response.status_code, messages_of(response)) == (400, [EMAIL_RULE])
    response = await visitor.post("/api/users/signin", json={"email": email, "password": PASSWORD})
    assert (response.status_code, messages_of(response)) == (400, [EMAIL_RULE])


async def test_a03_a_short_password_is_refused(visitor: httpx.AsyncClient) -> None:
    response = await visitor.post("/api/users/signup", json={"email": "alice@example.com", "password": "a" * 7})
    assert (response.status_code, messages_of(response)) == (400, [PASSWORD_RULE])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, [EMAIL_RULE, PASSWORD_RULE]),
        ({"email": "alice@example.com"}, [PASSWORD_RULE]),
        ({"password": PASSWORD}, [EMAIL_RULE]),
    ],
)
async def test_a04_missing_fields_are_reported_in_order(
    visitor: httpx.AsyncClient, body: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    response = await visitor.post("/api/users/signup", json=body)
    assert (response.status_code, messages_of(response)) == (400, expected)


async def test_a05_the_same_email_twice_is_refused(alice: httpx.AsyncClient, visitor: httpx.AsyncClient) -> None:
    response = await visitor.post("/api/users/signup", json={"email": "alice@example.com", "password": "another one"})
    assert (response.status_code, messages_of(response)) == (400, [("Email in use", "email")])
    assert await signed_in_email(visitor) is None


async def test_a06_sign_up_sets_the_session_cookie(visitor: httpx.AsyncClient) -> None:
    response = await visitor.post("/api/users/signup", json={"email": "alice@example.com", "password": PASSWORD})
    value, *attributes = response.headers["set-cookie"].split("; ")
    assert value.startswith("session=ey")
    assert sorted(attributes) == ["HttpOnly", "Max-Age=43200", "Path=/", "SameSite=Lax"]
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "password", ["a" * 8, "a" * 128, "        ", " leading and trailing ", "пароль с ключом", "🔑" * 8]
)
async def test_g02_a_password_is_neither_trimmed_nor_altered(app: App, password: str) -> None:
    async with app.client() as bob:
        await sign_up(bob, "bob@example.com", password)
        await sign_in(bob, "bob@example.com", password)
        shortened = {"email": "bob@example.com", "password": password[:-1]}
        assert (await bob.post("/api/users/signin", json=shortened)).status_code == 400
        padded = {"email": "bob@example.com", "password": password + " "}
        assert (await bob.post("/api/users/signin", json=padded)).status_code == 400


@pytest.mark.parametrize("password", ["a" * 129, "", None, 12345678, ["a" * 8]])
async def test_g02_a_password_outside_the_bounds_is_refused(visitor: httpx.AsyncClient, password: object) -> None:
    response = await visitor.post("/api/users/signup", json={"email": "alice@example.com", "password": password})
    assert (response.status_code, messages_of(response)) == (400, [PASSWORD_RULE])


async def test_g02_emails_are_unique_regardless_of_case(alice: httpx.AsyncClient, visitor: httpx.AsyncClient) -> None:
    response = await visitor.post(
        "/api/users/signup", json={"email": "\ufeff ALICE@Example.COM\u200b", "password": PASSWORD}
    )
    assert messages_of(response) == [("Email in use", "email")]
    await sign_in(visitor, "Alice@EXAMPLE.com")
    assert await signed_in_email(visitor) == "alice@example.com"


async def test_g02_unicode_forms_of_the_same_text_are_equal(app: App) -> None:
    async with app.client() as bob:
        await sign_up(bob, "bo\u0308b@example.com", "pa\u0308ssword")
        await sign_in(bob, "BÖB@example.com", "pässword")
        assert await signed_in_email(bob) == "böb@example.com"


UNICODE, ASCII = "x@müller-karten.example", "x@xn--mller-karten-dlb.example"


@pytest.mark.parametrize(("first", "second"), [(UNICODE, ASCII), (ASCII, UNICODE)])
async def test_g02_both_spellings_of_a_domain_are_one_account(
    app: App, visitor: httpx.AsyncClient, first: str, second: str
) -> None:
    async with app.client() as bob:
        await sign_up(bob, first)
    response = await visitor.post("/api/users/signup", json={"email": second, "password": PASSWORD})
    assert messages_of(response) == [("Email in use", "email")]
    await sign_in(visitor, second)
    assert await signed_in_email(visitor) == UNICODE


async def test_an_account_that_was_stored_with_its_domain_in_ascii_keeps_working(
    app: App, alice: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    async with app.client() as bob:
        await sign_up(bob, UNICODE)
    await app.running["auth"].database.execute("UPDATE account SET email = $1 WHERE email = $2", ASCII, UNICODE)
    for spelling in (ASCII, UNICODE):
        await sign_in(visitor, spelling)
        assert await signed_in_email(visitor) == ASCII
        async with app.client() as carol:
            response = await carol.post("/api/users/signup", json={"email": spelling, "password": "another one"})
            assert messages_of(response) == [("Email in use", "email")]
        change = {"email": spelling, "currentPassword": PASSWORD}
        response = await alice.put("/api/users/currentuser", json=change)
        assert messages_of(response) == [("Email in use", "email")]
    response = await visitor.put("/api/users/currentuser", json={"email": ASCII, "currentPassword": PASSWORD})
    assert response.json()["email"] == UNICODE


async def test_two_accounts_that_one_email_had_are_distinguished_by_their_passwords(app: App) -> None:
    async with app.client() as bob:
        await sign_up(bob, UNICODE, "the first password")
        await app.running["auth"].database.execute("UPDATE account SET email = $1 WHERE email = $2", ASCII, UNICODE)
        await sign_up(bob, "x@elsewhere.example", "the second password")
        await app.running["auth"].database.execute(
            "UPDATE account SET email = $1 WHERE email = 'x@elsewhere.example'", UNICODE
        )
        await sign_in(bob, UNICODE, "the first password")
        assert await signed_in_email(bob) == ASCII
        await sign_in(bob, ASCII, "the second password")
        assert await signed_in_email(bob) == UNICODE
        change = {"password": "the third password", "currentPassword": "the second password"}
        assert (await bob.put("/api/users/currentuser", json=change)).status_code == 200


async def test_a_token_with_the_longest_email_is_accepted(app: App) -> None:
    email = f"{'ü' * 32}@{'.'.join(['ü' * 30] * 3)}.de.com"
    assert len(email.encode()) == 254
    async with app.client() as bob:
        await sign_up(bob, email)
        assert await signed_in_email(bob) == email


async def test_20_concurrent_sign_ups_with_one_email_create_one_account(app: App) -> None:
    async def attempt(number: int) -> httpx.Response:
        email = "Alice@example.com" if number % 2 else "alice@EXAMPLE.com"
        async with app.client() as client:
            return await client.post("/api/users/signup", json={"email": email, "password": PASSWORD})

    responses = await asyncio.gather(*(attempt(number) for number in range(20)))
    assert sorted(response.status_code for response in responses) == [201, *[400] * 19]
    assert all(messages_of(each) == [("Email in use", "email")] for each in responses if each.status_code == 400)
    assert await app.running["auth"].database.fetchval("SELECT count(*) FROM account") == 1
    assert len(await published_by(app, "auth", "UserCreated")) == 1


async def sign_up_with_key(
    client: httpx.AsyncClient, key: str, email: str = "alice@example.com", password: str = PASSWORD
) -> httpx.Response:
    credentials = {"email": email, "password": password}
    return await client.post("/api/users/signup", json=credentials, headers={"idempotency-key": key})


async def number_of_accounts(app: App) -> Any:
    return await app.running["auth"].database.fetchval("SELECT count(*) FROM account")


async def test_a_repeated_sign_up_returns_the_same_account_and_a_session(app: App) -> None:
    async with app.client() as first, app.client() as second:
        responses = [
            await sign_up_with_key(first, "key-1"),
            await sign_up_with_key(second, "key-1", "Alice@Example.com"),
        ]
        assert [each.status_code for each in responses] == [201, 201]
        assert responses[0].json() == responses[1].json()
        for client in (first, second):
            assert (await client.get("/api/users/currentuser")).json()["currentUser"] == responses[0].json()
    assert len(await published_by(app, "auth", "UserCreated")) == 1


async def test_concurrent_repeats_create_one_account_and_all_succeed(app: App) -> None:
    async def attempt() -> httpx.Response:
        async with app.client() as client:
            return await sign_up_with_key(client, "key-1")

    responses = await asyncio.gather(*(attempt() for _ in range(10)))
    assert [each.status_code for each in responses] == [201] * 10
    assert len({each.json()["id"] for each in responses}) == 1
    assert await number_of_accounts(app) == 1


@pytest.mark.parametrize(
    ("email", "password"), [("alice@example.com", "another password"), ("bob@example.com", PASSWORD)]
)
async def test_a_key_reused_for_another_sign_up_is_refused(
    app: App, visitor: httpx.AsyncClient, email: str, password: str
) -> None:
    await sign_up_with_key(visitor, "key-1")
    async with app.client() as client:
        response = await sign_up_with_key(client, "key-1", email, password)
        assert response.status_code == 422
        assert messages_of(response) == [("This Idempotency-Key was used for a different request", None)]
        assert "set-cookie" not in response.headers
    assert await number_of_accounts(app) == 1


async def test_another_key_does_not_give_access_to_an_account(app: App, visitor: httpx.AsyncClient) -> None:
    await sign_up_with_key(visitor, "key-1")
    async with app.client() as client:
        response = await sign_up_with_key(client, "key-2")
        assert (response.status_code, messages_of(response)) == (400, [("Email in use", "email")])


@pytest.mark.parametrize("key", ["", "a" * 256, "tab\there", "\u00fcmlaut"])
async def test_a_malformed_key_is_refused(app: App, visitor: httpx.AsyncClient, key: str) -> None:
    response = await visitor.post(
        "/api/users/signup",
        json={"email": "alice@example.com", "password": PASSWORD},
        headers=[(b"idempotency-key", key.encode())],
    )
    assert (response.status_code, messages_of(response)) == (
        400,
        [("Idempotency-Key must be 1 to 255 visible characters", None)],
    )
    assert await number_of_accounts(app) == 0
