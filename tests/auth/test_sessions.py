"""Signing up, in and out: what the reference's own suite checks, and what it forgets about passwords and e-mails."""

import asyncio
import statistics
from time import perf_counter
from uuid import UUID

import httpx
import pytest
from argon2 import PasswordHasher

from admitone.auth.service import SERVICE
from admitone.kernel.runner import App
from tests.engines import Databases
from tests.support import PASSWORD, StartNats, messages_of, running_app, set_token, sign_in, sign_up, told_by

NOBODY = {"currentUser": None}
PASSWORD_RULE = ("Password must be between 8 and 128 characters", "password")
EMAIL_RULE = ("Email must be valid", "email")


async def who(client: httpx.AsyncClient) -> str | None:
    """The e-mail the service knows this browser's user by."""
    answer = await client.get("/api/users/currentuser")
    assert answer.status_code == 200
    user = answer.json()["currentUser"]
    return None if user is None else str(user["email"])


async def test_a01_sign_up_answers_201_with_the_account(somebody: httpx.AsyncClient) -> None:
    answer = await somebody.post("/api/users/signup", json={"email": "alice@example.com", "password": PASSWORD})
    assert answer.status_code == 201
    assert answer.json() == {"id": str(UUID(answer.json()["id"])), "email": "alice@example.com"}


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
        f"{'ü' * 32}@{'.'.join(['ü' * 50] * 3)}.com",
        "",
    ],
)
async def test_a02_a_bad_email_is_refused(somebody: httpx.AsyncClient, email: str) -> None:
    answer = await somebody.post("/api/users/signup", json={"email": email, "password": PASSWORD})
    assert (answer.status_code, messages_of(answer)) == (400, [EMAIL_RULE])
    answer = await somebody.post("/api/users/signin", json={"email": email, "password": PASSWORD})
    assert (answer.status_code, messages_of(answer)) == (400, [EMAIL_RULE])


async def test_a03_a_short_password_is_refused(somebody: httpx.AsyncClient) -> None:
    answer = await somebody.post("/api/users/signup", json={"email": "alice@example.com", "password": "a" * 7})
    assert (answer.status_code, messages_of(answer)) == (400, [PASSWORD_RULE])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, [EMAIL_RULE, PASSWORD_RULE]),
        ({"email": "alice@example.com"}, [PASSWORD_RULE]),
        ({"password": PASSWORD}, [EMAIL_RULE]),
    ],
)
async def test_a04_each_missing_field_is_named_in_order(
    somebody: httpx.AsyncClient, body: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    answer = await somebody.post("/api/users/signup", json=body)
    assert (answer.status_code, messages_of(answer)) == (400, expected)


async def test_a05_the_same_email_twice_is_refused(alice: httpx.AsyncClient, somebody: httpx.AsyncClient) -> None:
    answer = await somebody.post("/api/users/signup", json={"email": "alice@example.com", "password": "another one"})
    assert (answer.status_code, messages_of(answer)) == (400, [("Email in use", "email")])
    assert await who(somebody) is None


async def test_a06_sign_up_sets_the_session_cookie(somebody: httpx.AsyncClient) -> None:
    answer = await somebody.post("/api/users/signup", json={"email": "alice@example.com", "password": PASSWORD})
    value, *attributes = answer.headers["set-cookie"].split("; ")
    assert value.startswith("session=ey")
    assert sorted(attributes) == ["HttpOnly", "Max-Age=43200", "Path=/", "SameSite=Lax"]
    assert answer.headers["cache-control"] == "no-store"


async def test_a07_sign_in_with_an_unknown_email_is_refused(somebody: httpx.AsyncClient) -> None:
    answer = await somebody.post("/api/users/signin", json={"email": "nobody@example.com", "password": PASSWORD})
    assert (answer.status_code, messages_of(answer)) == (400, [("Invalid credentials", None)])
    assert "set-cookie" not in answer.headers


async def test_a08_a_wrong_password_gets_the_same_answer(alice: httpx.AsyncClient, somebody: httpx.AsyncClient) -> None:
    wrong = await somebody.post("/api/users/signin", json={"email": "alice@example.com", "password": PASSWORD + "!"})
    unknown = await somebody.post("/api/users/signin", json={"email": "nobody@example.com", "password": PASSWORD})
    assert (wrong.status_code, wrong.content) == (400, unknown.content)
    assert wrong.headers == unknown.headers


async def test_a09_the_right_credentials_sign_in(alice: httpx.AsyncClient, somebody: httpx.AsyncClient) -> None:
    answer = await somebody.post("/api/users/signin", json={"email": "alice@example.com", "password": PASSWORD})
    assert answer.status_code == 200
    assert answer.json() == {"id": str(UUID(answer.json()["id"])), "email": "alice@example.com"}
    assert answer.headers["set-cookie"].startswith("session=ey")
    assert await who(somebody) == "alice@example.com"


async def test_a10_sign_out_clears_the_cookie(alice: httpx.AsyncClient) -> None:
    answer = await alice.post("/api/users/signout")
    assert (answer.status_code, answer.json()) == (200, {})
    value, *attributes = answer.headers["set-cookie"].split("; ")
    assert value == "session="
    assert sorted(attributes) == [
        "Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "HttpOnly",
        "Max-Age=0",
        "Path=/",
        "SameSite=Lax",
    ]
    assert "session" not in alice.cookies


async def test_a11_currentuser_knows_who_is_signed_in(somebody: httpx.AsyncClient) -> None:
    alice_id = await sign_up(somebody, "alice@example.com")
    answer = await somebody.get("/api/users/currentuser")
    assert answer.status_code == 200
    assert answer.json() == {"currentUser": {"id": str(alice_id), "email": "alice@example.com"}}


async def test_a12_currentuser_is_null_for_nobody(somebody: httpx.AsyncClient) -> None:
    answer = await somebody.get("/api/users/currentuser")
    assert (answer.status_code, answer.json()) == (200, NOBODY)


@pytest.mark.parametrize(
    "password", ["a" * 8, "a" * 128, "        ", " leading and trailing ", "пароль с ключом", "🔑" * 8]
)
async def test_g02_a_password_is_taken_as_typed(app: App, password: str) -> None:
    async with app.client() as bob:
        await sign_up(bob, "bob@example.com", password)
        await sign_in(bob, "bob@example.com", password)
        shortened = {"email": "bob@example.com", "password": password[:-1]}
        assert (await bob.post("/api/users/signin", json=shortened)).status_code == 400
        padded = {"email": "bob@example.com", "password": password + " "}
        assert (await bob.post("/api/users/signin", json=padded)).status_code == 400


@pytest.mark.parametrize("password", ["a" * 129, "", None, 12345678, ["a" * 8]])
async def test_g02_a_password_outside_the_bounds_is_refused(somebody: httpx.AsyncClient, password: object) -> None:
    answer = await somebody.post("/api/users/signup", json={"email": "alice@example.com", "password": password})
    assert (answer.status_code, messages_of(answer)) == (400, [PASSWORD_RULE])


async def test_g02_one_person_has_one_account_whatever_the_case(
    alice: httpx.AsyncClient, somebody: httpx.AsyncClient
) -> None:
    answer = await somebody.post("/api/users/signup", json={"email": " ALICE@Example.COM ", "password": PASSWORD})
    assert messages_of(answer) == [("Email in use", "email")]
    await sign_in(somebody, "Alice@EXAMPLE.com")
    assert await who(somebody) == "alice@example.com"


async def test_g02_the_same_letters_spelt_differently_are_the_same(app: App) -> None:
    async with app.client() as bob:
        await sign_up(bob, "bo\u0308b@example.com", "pa\u0308ssword")
        await sign_in(bob, "BÖB@example.com", "pässword")
        assert await who(bob) == "böb@example.com"


async def test_the_longest_email_still_makes_a_token_that_is_read(app: App) -> None:
    email = f"{'ü' * 32}@{'.'.join(['ü' * 30] * 3)}.de.com"
    assert len(email.encode()) == 254
    async with app.client() as bob:
        await sign_up(bob, email)
        assert await who(bob) == email


async def test_signing_in_without_a_password_says_so(somebody: httpx.AsyncClient) -> None:
    for body in ({"email": "alice@example.com"}, {"email": "alice@example.com", "password": ""}):
        answer = await somebody.post("/api/users/signin", json=body)
        assert (answer.status_code, messages_of(answer)) == (400, [("You must supply a password", "password")])


async def test_s16_a_token_is_refused_after_sign_out(alice: httpx.AsyncClient, somebody: httpx.AsyncClient) -> None:
    stolen = alice.cookies["session"]
    set_token(somebody, stolen)
    assert await who(somebody) == "alice@example.com"
    await alice.post("/api/users/signout")
    assert await who(somebody) is None
    answer = await somebody.put(
        "/api/users/currentuser", json={"currentPassword": PASSWORD, "email": "eve@example.com"}
    )
    assert (answer.status_code, messages_of(answer)) == (401, [("Not authorized", None)])


async def test_signing_out_twice_or_signed_out_is_fine(app: App, alice: httpx.AsyncClient) -> None:
    for _ in range(2):
        assert (await alice.post("/api/users/signout")).status_code == 200
    assert len(await told_by(app, "auth", "SessionRevoked")) == 1


async def test_signing_in_again_ends_the_session_it_replaces(
    alice: httpx.AsyncClient, somebody: httpx.AsyncClient
) -> None:
    set_token(somebody, alice.cookies["session"])
    await sign_in(alice, "alice@example.com")
    assert await who(alice) == "alice@example.com"
    assert await who(somebody) is None


async def test_signing_in_elsewhere_leaves_this_session_alone(
    alice: httpx.AsyncClient, somebody: httpx.AsyncClient
) -> None:
    await sign_in(somebody, "alice@example.com")
    await somebody.post("/api/users/signout")
    assert await who(alice) == "alice@example.com"


async def test_signing_out_everywhere_ends_every_session(
    app: App, alice: httpx.AsyncClient, somebody: httpx.AsyncClient
) -> None:
    await sign_in(somebody, "alice@example.com")
    async with app.client() as bob, app.client() as thief:
        await sign_up(bob, "bob@example.com")
        set_token(thief, alice.cookies["session"])
        answer = await alice.post("/api/users/signout-everywhere")
        assert (answer.status_code, answer.json()) == (200, {})
        assert answer.headers["set-cookie"].startswith("session=;")
        assert [await who(each) for each in (alice, somebody, thief)] == [None, None, None]
        assert await who(bob) == "bob@example.com"
    assert len(await told_by(app, "auth", "SessionRevoked")) == 2


async def test_signing_out_everywhere_wants_somebody_signed_in(somebody: httpx.AsyncClient) -> None:
    answer = await somebody.post("/api/users/signout-everywhere")
    assert (answer.status_code, messages_of(answer)) == (401, [("Not authorized", None)])


async def test_a_cookie_on_https_is_for_https_only(databases: Databases, start_nats: StartNats) -> None:
    origin = "https://tickets.example"
    async with running_app(databases, start_nats, SERVICE, origin=origin) as app, app.client() as alice:
        credentials = {"email": "alice@example.com", "password": PASSWORD}
        answer = await alice.post("/api/users/signup", json=credentials)
        assert answer.headers["set-cookie"].endswith("; Secure")
        assert (await alice.post("/api/users/signout")).headers["set-cookie"].endswith("; Secure")


async def test_a_session_lasts_as_long_as_the_setting_says(databases: Databases, start_nats: StartNats) -> None:
    async with running_app(databases, start_nats, SERVICE, session_seconds=60) as app, app.client() as alice:
        credentials = {"email": "alice@example.com", "password": PASSWORD}
        answer = await alice.post("/api/users/signup", json=credentials)
        assert "Max-Age=60;" in answer.headers["set-cookie"]
        person = await app.running["auth"].sessions.user(alice.cookies["session"])
        assert person is not None
        row = await app.running["auth"].database.fetchrow("SELECT started_at, expires_at FROM session")
        assert row is not None
        assert (row["expires_at"] - row["started_at"]).total_seconds() == 60
        assert 0 <= row["expires_at"].timestamp() - person.expires_at < 1


async def test_another_sites_page_cannot_sign_anybody_in(alice: httpx.AsyncClient, somebody: httpx.AsyncClient) -> None:
    answer = await somebody.post(
        "/api/users/signin",
        json={"email": "alice@example.com", "password": PASSWORD},
        headers={"sec-fetch-site": "cross-site"},
    )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_a_hash_of_yesterday_is_renewed_at_sign_in(app: App, alice: httpx.AsyncClient) -> None:
    weak = PasswordHasher(memory_cost=8, time_cost=1, parallelism=1).hash(PASSWORD)
    db = app.running["auth"].database
    await db.execute("UPDATE account SET password_hash = $1", weak)
    for _ in range(2):
        await sign_in(alice, "alice@example.com")
        assert (await db.fetchval("SELECT password_hash FROM account")).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await db.fetchval("SELECT version FROM account") == 0


async def test_an_unknown_email_costs_as_much_as_a_wrong_password(
    alice: httpx.AsyncClient, somebody: httpx.AsyncClient
) -> None:
    async def seconds(email: str) -> float:
        began = perf_counter()
        answer = await somebody.post("/api/users/signin", json={"email": email, "password": "not the password"})
        assert answer.status_code == 400
        return perf_counter() - began

    pairs = [(await seconds("alice@example.com"), await seconds(f"nobody{number}@example.com")) for number in range(4)]
    known, unknown = zip(*pairs, strict=True)
    # Without the hash it would be a tenth.
    assert 0.5 < statistics.median(unknown) / statistics.median(known) < 2


async def test_20_sign_ups_with_one_email_make_one_account(app: App) -> None:
    async def attempt(number: int) -> httpx.Response:
        email = "Alice@example.com" if number % 2 else "alice@EXAMPLE.com"
        async with app.client() as client:
            return await client.post("/api/users/signup", json={"email": email, "password": PASSWORD})

    answers = await asyncio.gather(*(attempt(number) for number in range(20)))
    assert sorted(answer.status_code for answer in answers) == [201, *[400] * 19]
    assert all(messages_of(each) == [("Email in use", "email")] for each in answers if each.status_code == 400)
    assert await app.running["auth"].database.fetchval("SELECT count(*) FROM account") == 1
    assert len(await told_by(app, "auth", "UserCreated")) == 1
