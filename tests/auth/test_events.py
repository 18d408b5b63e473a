"""The events auth publishes, and their effect: other services refuse an ended session within a second."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import httpx
import msgspec
import pytest_asyncio

from admitone.auth.model import LOST_HASH
from admitone.auth.service import SERVICE
from admitone.events import SessionRevoked
from admitone.kernel.database.pool import Database
from admitone.kernel.http.operations import OK, Request, Response, operation
from admitone.kernel.http.sessions import session_revoked
from admitone.kernel.runner import App
from admitone.kernel.service import Service
from tests.auth.support import try_sign_in
from tests.engines import Databases
from tests.inbox import rebuild, service_database
from tests.support import (
    PASSWORD,
    StartNats,
    app_of,
    eventually,
    id_of,
    published_by,
    running_app,
    set_token,
    settings_for,
    sign_in,
    sign_up,
)


class Greeting(msgspec.Struct):
    email: str


@operation("GET", "/api/greeting", returns=Greeting, signed_in=True)
async def greet(request: Request[None, None]) -> Response:
    """Greet the signed-in user."""
    return Response(OK, Greeting(request.user.email))


# A service named kernel has a database with only the tables that every service has.
GREETER = Service(name="kernel", operations=(greet,), subscriptions={SessionRevoked: session_revoked})


@pytest_asyncio.fixture
async def both(databases: Databases, start_nats: StartNats) -> AsyncIterator[App]:
    async with running_app(databases, start_nats, SERVICE, GREETER) as app:
        yield app


async def test_g08_sign_up_publishes_user_created(app: App, visitor: httpx.AsyncClient) -> None:
    alice_id = await sign_up(visitor, "Alice@example.com")
    assert await published_by(app, "auth") == [
        {"type": "UserCreated", "id": str(alice_id), "email": "alice@example.com", "version": 0}
    ]


async def test_g08_an_account_change_publishes_user_updated(app: App, alice: httpx.AsyncClient) -> None:
    alice_id = await id_of(alice)
    for version, change in enumerate(({"email": "alice@example.org"}, {"password": "another password"}), start=1):
        await alice.put("/api/users/currentuser", json={"currentPassword": PASSWORD, **change})
        assert (await published_by(app, "auth", "UserUpdated"))[-1] == {
            "type": "UserUpdated",
            "id": str(alice_id),
            "email": "alice@example.org",
            "version": version,
            "snapshot": False,
            "passwordChanged": "password" in change,
        }


async def test_g08_sign_out_publishes_session_revoked(app: App, alice: httpx.AsyncClient) -> None:
    alice_id = await id_of(alice)
    user = await app.running["auth"].sessions.user(alice.cookies["session"])
    assert user is not None
    await alice.post("/api/users/signout")
    (event,) = await published_by(app, "auth", "SessionRevoked")
    assert event == {
        "type": "SessionRevoked",
        "sessionId": str(user.session_id),
        "userId": str(alice_id),
        "expiresAt": datetime.fromtimestamp(user.expires_at, UTC).isoformat().replace("+00:00", "Z"),
    }


async def test_g08_a_refused_request_publishes_nothing(app: App, alice: httpx.AsyncClient) -> None:
    before = await published_by(app, "auth")
    await alice.post("/api/users/signup", json={"email": "alice@example.com", "password": PASSWORD})
    await alice.post("/api/users/signin", json={"email": "alice@example.com", "password": "wrong password"})
    await alice.put("/api/users/currentuser", json={"currentPassword": "wrong", "email": "a@example.org"})
    async with app.client() as bob:
        await bob.post("/api/users/signout")
    assert await published_by(app, "auth") == before


async def assert_refused_within(seconds: float, client: httpx.AsyncClient, path: str = "/api/greeting") -> None:
    async def is_refused() -> bool:
        response = await client.get(path)
        return response.status_code == 401 or response.json() == {"currentUser": None}

    await eventually(is_refused, "the ended session is refused", seconds)


async def test_s16_another_service_refuses_an_ended_session_within_a_second(both: App) -> None:
    async with both.client() as alice, both.client() as thief:
        await sign_up(alice, "alice@example.com")
        # At first the service may still be creating its subscription.
        for seconds in (10, 1):
            set_token(thief, alice.cookies["session"])
            assert (await thief.get("/api/greeting")).json() == {"email": "alice@example.com"}
            await alice.post("/api/users/signout")
            await assert_refused_within(seconds, thief)
            await sign_in(alice, "alice@example.com")


async def test_s16_a_new_password_ends_the_other_sessions_in_other_services_too(both: App) -> None:
    async with both.client() as alice, both.client() as phone:
        await sign_up(alice, "alice@example.com")
        await sign_in(phone, "alice@example.com")
        assert (await phone.get("/api/greeting")).status_code == 200
        change = {"currentPassword": PASSWORD, "password": "another password"}
        await alice.put("/api/users/currentuser", json=change)
        await assert_refused_within(10, phone)
        assert (await alice.get("/api/greeting")).status_code == 200


async def test_s16_another_auth_process_refuses_an_ended_session_without_the_bus(
    databases: Databases, start_nats: StartNats
) -> None:
    settings = await settings_for(databases, start_nats, SERVICE)
    without_bus = msgspec.structs.replace(settings, nats_urls={"auth": "nats://127.0.0.1:1"})
    async with (
        app_of([SERVICE], without_bus) as here,
        app_of([SERVICE], without_bus) as there,
        here.client() as alice,
        there.client() as thief,
    ):
        await sign_up(alice, "alice@example.com")
        set_token(thief, alice.cookies["session"])
        assert (await thief.get("/api/users/currentuser")).json()["currentUser"] is not None
        await alice.post("/api/users/signout")
        await assert_refused_within(1, thief, "/api/users/currentuser")


async def test_s16_an_expired_session_is_refused_in_other_services(both: App) -> None:
    async with both.client() as alice:
        await sign_up(alice, "alice@example.com")
        assert (await alice.get("/api/greeting")).status_code == 200
        user = await both.running["auth"].sessions.user(alice.cookies["session"])
        assert user is not None
        expired = msgspec.structs.replace(user, expires_at=user.expires_at - 13 * 3600)
        keys = both.running["auth"].resources.keys
        set_token(alice, keys.sign(expired, datetime.fromtimestamp(expired.expires_at - 60, UTC)))
        assert (await alice.get("/api/greeting")).status_code == 401


async def test_accounts_are_rebuilt_from_their_events_without_their_passwords(
    databases: Databases, app: App, visitor: httpx.AsyncClient
) -> None:
    """Events have no hashes. A password that was replaced must not be valid again: somebody else may know it."""
    source = app.running["auth"].database
    await sign_up(visitor, "alice@example.com")
    ended = UUID(await source.fetchval("SELECT id::text FROM session"))
    async with service_database(databases, SERVICE) as restored:
        await copy(source, restored, "account", "session")
        for body in ({"email": "ada@example.com"}, {"password": "another brass owl"}):
            changed = await visitor.put("/api/users/currentuser", json={"currentPassword": PASSWORD, **body})
            assert changed.status_code == 200
            [kept] = await restored.fetch("SELECT password_hash FROM account")
            await rebuild(SERVICE, source, restored, times=2)
            [now] = await restored.fetch("SELECT password_hash FROM account")
            assert (now == kept) == ("email" in body)
        assert now["password_hash"] == LOST_HASH
        await visitor.post("/api/users/signout")
        await sign_up(visitor, "bob@example.com")
        await rebuild(SERVICE, source, restored, times=2)
        every = "SELECT id, email, version, signed_up_at FROM account ORDER BY id"
        assert await restored.fetch(every) == await source.fetch(every)
        assert await restored.fetchval("SELECT ended_at IS NOT NULL FROM session WHERE id = $1", ended)
        assert await restored.fetchval("SELECT count(*) FROM account WHERE password_hash = $1", LOST_HASH) == 2


async def test_nobody_signs_in_to_an_account_whose_password_is_lost(app: App, alice: httpx.AsyncClient) -> None:
    await app.running["auth"].database.execute("UPDATE account SET password_hash = $1", LOST_HASH)
    for password in (PASSWORD, LOST_HASH, "lost"):
        assert (await try_sign_in(alice, password=password)).status_code == 400
    taken = await alice.post("/api/users/signup", json={"email": "alice@example.com", "password": PASSWORD})
    assert taken.json() == {"errors": [{"message": "Email in use", "field": "email"}]}


async def copy(source: Database, target: Database, *tables: str) -> None:
    for table in tables:
        rows = [dict(row) for row in await source.fetch(f"SELECT * FROM {table}")]
        for row in rows:
            places = ", ".join(f"${place}" for place in range(1, len(row) + 1))
            await target.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", *row.values())
