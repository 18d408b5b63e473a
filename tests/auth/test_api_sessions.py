"""Signing in and out, and the session cookie."""

import asyncio
from contextlib import AsyncExitStack
from uuid import UUID

import httpx

from admitone.auth.service import SERVICE
from admitone.kernel.runner import App
from tests.auth.support import signed_in_email
from tests.engines import Databases
from tests.support import PASSWORD, StartNats, messages_of, published_by, running_app, set_token, sign_in, sign_up

CONCURRENT = 4
ROUNDS = 8


async def test_a07_sign_in_with_an_unknown_email_is_refused(visitor: httpx.AsyncClient) -> None:
    response = await visitor.post("/api/users/signin", json={"email": "nobody@example.com", "password": PASSWORD})
    assert (response.status_code, messages_of(response)) == (400, [("Invalid credentials", None)])
    assert "set-cookie" not in response.headers


async def test_a08_a_wrong_password_gets_the_same_response(
    alice: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    wrong = await visitor.post("/api/users/signin", json={"email": "alice@example.com", "password": PASSWORD + "!"})
    unknown = await visitor.post("/api/users/signin", json={"email": "nobody@example.com", "password": PASSWORD})
    assert (wrong.status_code, wrong.content) == (400, unknown.content)
    assert wrong.headers == unknown.headers


async def test_a09_correct_credentials_sign_in(alice: httpx.AsyncClient, visitor: httpx.AsyncClient) -> None:
    response = await visitor.post("/api/users/signin", json={"email": "alice@example.com", "password": PASSWORD})
    assert response.status_code == 200
    assert response.json() == {"id": str(UUID(response.json()["id"])), "email": "alice@example.com"}
    assert response.headers["set-cookie"].startswith("session=ey")
    assert await signed_in_email(visitor) == "alice@example.com"


async def test_a10_sign_out_clears_the_cookie(alice: httpx.AsyncClient) -> None:
    response = await alice.post("/api/users/signout")
    assert (response.status_code, response.json()) == (200, {})
    value, *attributes = response.headers["set-cookie"].split("; ")
    assert value == "session="
    assert sorted(attributes) == [
        "Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "HttpOnly",
        "Max-Age=0",
        "Path=/",
        "SameSite=Lax",
    ]
    assert "session" not in alice.cookies


async def test_a11_currentuser_returns_the_signed_in_user(visitor: httpx.AsyncClient) -> None:
    alice_id = await sign_up(visitor, "alice@example.com")
    response = await visitor.get("/api/users/currentuser")
    assert response.status_code == 200
    assert response.json() == {"currentUser": {"id": str(alice_id), "email": "alice@example.com"}}


async def test_a12_currentuser_is_null_without_a_session(visitor: httpx.AsyncClient) -> None:
    response = await visitor.get("/api/users/currentuser")
    assert (response.status_code, response.json()) == (200, {"currentUser": None})


async def test_signing_in_without_a_password_is_refused(visitor: httpx.AsyncClient) -> None:
    for body in ({"email": "alice@example.com"}, {"email": "alice@example.com", "password": ""}):
        response = await visitor.post("/api/users/signin", json=body)
        assert (response.status_code, messages_of(response)) == (400, [("You must supply a password", "password")])


async def test_s16_a_token_is_refused_after_sign_out(alice: httpx.AsyncClient, visitor: httpx.AsyncClient) -> None:
    stolen = alice.cookies["session"]
    set_token(visitor, stolen)
    assert await signed_in_email(visitor) == "alice@example.com"
    await alice.post("/api/users/signout")
    assert await signed_in_email(visitor) is None
    response = await visitor.put(
        "/api/users/currentuser", json={"currentPassword": PASSWORD, "email": "eve@example.com"}
    )
    assert (response.status_code, messages_of(response)) == (401, [("Not authorized", None)])


async def test_signing_out_is_idempotent(app: App, alice: httpx.AsyncClient) -> None:
    for _ in range(2):
        assert (await alice.post("/api/users/signout")).status_code == 200
    assert len(await published_by(app, "auth", "SessionRevoked")) == 1


async def test_signing_in_again_ends_the_session_it_replaces(
    alice: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    set_token(visitor, alice.cookies["session"])
    await sign_in(alice, "alice@example.com")
    assert await signed_in_email(alice) == "alice@example.com"
    assert await signed_in_email(visitor) is None


async def test_signing_in_elsewhere_keeps_this_session(alice: httpx.AsyncClient, visitor: httpx.AsyncClient) -> None:
    await sign_in(visitor, "alice@example.com")
    await visitor.post("/api/users/signout")
    assert await signed_in_email(alice) == "alice@example.com"


async def test_signing_out_everywhere_ends_every_session(
    app: App, alice: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    await sign_in(visitor, "alice@example.com")
    async with app.client() as bob, app.client() as thief:
        await sign_up(bob, "bob@example.com")
        set_token(thief, alice.cookies["session"])
        response = await alice.post("/api/users/signout-everywhere")
        assert (response.status_code, response.json()) == (200, {})
        assert response.headers["set-cookie"].startswith("session=;")
        assert [await signed_in_email(each) for each in (alice, visitor, thief)] == [None, None, None]
        assert await signed_in_email(bob) == "bob@example.com"
    assert len(await published_by(app, "auth", "SessionRevoked")) == 2


async def test_signing_out_everywhere_requires_a_session(visitor: httpx.AsyncClient) -> None:
    response = await visitor.post("/api/users/signout-everywhere")
    assert (response.status_code, messages_of(response)) == (401, [("Not authorized", None)])


async def test_the_cookie_is_secure_on_https(databases: Databases, start_nats: StartNats) -> None:
    origin = "https://tickets.example"
    async with running_app(databases, start_nats, SERVICE, origin=origin) as app, app.client() as alice:
        credentials = {"email": "alice@example.com", "password": PASSWORD}
        response = await alice.post("/api/users/signup", json=credentials)
        cookie = response.headers["set-cookie"]
        assert cookie.startswith("__Host-session=ey")
        assert cookie.endswith("; Secure")
        assert (await alice.get("/api/users/currentuser")).json()["currentUser"] is not None
        token = alice.cookies["__Host-session"]
        async with app.client() as eve:
            response = await eve.get("/api/users/currentuser", headers={"cookie": f"session={token}"})
            assert response.json() == {"currentUser": None}
        assert (await alice.post("/api/users/signout")).headers["set-cookie"].endswith("; Secure")


async def test_the_session_lifetime_is_a_setting(databases: Databases, start_nats: StartNats) -> None:
    async with running_app(databases, start_nats, SERVICE, session_seconds=60) as app, app.client() as alice:
        credentials = {"email": "alice@example.com", "password": PASSWORD}
        response = await alice.post("/api/users/signup", json=credentials)
        assert "Max-Age=60;" in response.headers["set-cookie"]
        user = await app.running["auth"].sessions.user(alice.cookies["session"])
        assert user is not None
        row = await app.running["auth"].database.fetchrow("SELECT started_at, expires_at FROM session")
        assert row is not None
        assert (row["expires_at"] - row["started_at"]).total_seconds() == 60
        assert 0 <= row["expires_at"].timestamp() - user.expires_at < 1


async def test_a_cross_site_request_cannot_sign_in(alice: httpx.AsyncClient, visitor: httpx.AsyncClient) -> None:
    response = await visitor.post(
        "/api/users/signin",
        json={"email": "alice@example.com", "password": PASSWORD},
        headers={"sec-fetch-site": "cross-site"},
    )
    assert response.status_code == 403
    assert "set-cookie" not in response.headers


async def clients_of(stack: AsyncExitStack, app: App, email: str) -> list[httpx.AsyncClient]:
    """Sign up a new user and return several clients that are signed in."""
    clients = [await stack.enter_async_context(app.client()) for _ in range(CONCURRENT)]
    await sign_up(clients[0], email)
    for each in clients[1:]:
        await sign_in(each, email)
    return clients


async def test_two_concurrent_sign_outs_everywhere_end_all_sessions(app: App) -> None:
    for number in range(ROUNDS):
        async with AsyncExitStack() as stack:
            clients = await clients_of(stack, app, f"alice{number}@example.com")
            leaving = [each.post("/api/users/signout-everywhere") for each in clients[:2]]
            responses = await asyncio.gather(*leaving)
            # The slower one may already be signed out.
            assert {each.status_code for each in responses} <= {200, 401}
            for each in clients:
                assert (await each.get("/api/users/currentuser")).json() == {"currentUser": None}


async def test_a_password_change_and_a_sign_out_everywhere_do_not_deadlock(app: App) -> None:
    for number in range(ROUNDS):
        async with AsyncExitStack() as stack:
            changing, leaving, *_ = await clients_of(stack, app, f"alice{number}@example.com")
            fresh = {"currentPassword": PASSWORD, "password": "six-quiet-magpies"}
            responses = await asyncio.gather(
                changing.put("/api/users/currentuser", json=fresh), leaving.post("/api/users/signout-everywhere")
            )
            assert {each.status_code for each in responses} <= {200, 401}
