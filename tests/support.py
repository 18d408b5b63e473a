"""What tests of services share: an application of real services, and people who are signed in to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import httpx
import msgspec

from admitone.auth.resources import AuthSettings
from admitone.auth.tokens import SigningKeys, new_signing_key
from admitone.kernel import clock, ids
from admitone.kernel.http.sessions import SignedInUser, cookie_name
from admitone.kernel.runner import App
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings, variables
from admitone.local.nats import Nats, NatsUser
from admitone.registry import AUTHORITY, SERVICES
from tests.engines import Databases

StartNats = Callable[..., Nats]

PASSWORD: Final = "correct horse battery staple"


def bus_user(service: Service) -> NatsUser:
    return NatsUser.of(service, f"{service.name}-password")


async def settings_for(
    databases: Databases, start_nats: StartNats, *services: Service, nats: Nats | None = None, **settings: Any
) -> Settings:
    """Settings with a fresh database for each service and a fresh NATS (or the given one), and a fresh signing key."""
    nats = nats or start_nats(*(bus_user(each) for each in services))
    urls = {each.name: (await databases.fresh(each.name)).url for each in services if each.has_database}
    base = Settings(
        database_urls=urls, nats_urls={each.name: nats.url(each.name) for each in services}, database_connections=5
    )
    return with_settings(base, **{"signing_key": new_signing_key(), **settings})


def with_settings(base: Settings, **settings: Any) -> Settings:
    """Return settings with fields of the kernel's or of a service's settings replaced."""
    own = {
        field: variable.name
        for each in SERVICES
        for struct in each.settings
        for field, variable in variables(struct).items()
    }
    kernel = {name: value for name, value in settings.items() if name not in own}
    values = {own[name]: str(value) for name, value in settings.items() if name in own}
    return msgspec.structs.replace(base, **kernel).with_variables(**values)


def app_of(services: Sequence[Service], settings: Settings) -> App:
    """Return the application of some services, whose sessions auth signs."""
    return App(services, settings, AUTHORITY)


@asynccontextmanager
async def running_app(
    databases: Databases, start_nats: StartNats, *services: Service, nats: Nats | None = None, **settings: Any
) -> AsyncIterator[App]:
    """Run services against a fresh world; include auth's SERVICE, or nobody's session can be verified.

    For a world that outlives the application (restarts, a second replica) use `settings_for` and `App` by hand.
    """
    async with app_of(services, await settings_for(databases, start_nats, *services, nats=nats, **settings)) as app:
        yield app


def signing_key_of(app: App) -> str:
    return app.running["auth"].settings.read(AuthSettings).signing_key


def token_of(app: App, person: SignedInUser) -> str:
    """Sign a session token as auth would, without signing anybody up: hashing 200 passwords takes long."""
    return SigningKeys.from_pem(signing_key_of(app)).sign(person, clock.now())


def signed_in(app: App, name: str, person_id: UUID | None = None) -> httpx.AsyncClient:
    """Return a client with a session of somebody who is not in auth's database; see `sign_up` for real people.

    The client has `person_id` of its own choice when given; otherwise ask `id_of(client)`.
    """
    person = SignedInUser(
        id=person_id or ids.new_id(),
        email=f"{name}@example.com",
        session_id=ids.new_id(),
        expires_at=(clock.now() + timedelta(hours=1)).timestamp(),
    )
    client = app.client()
    set_token(client, token_of(app, person))
    return client


def set_token(client: httpx.AsyncClient, token: str) -> None:
    """Let a client present this session token."""
    name = cookie_name(is_https=client.base_url.scheme == "https")
    client.cookies.set(name, token, domain=client.base_url.host, path="/")


async def id_of(client: httpx.AsyncClient) -> UUID:
    """Return the id of who is signed in."""
    answer = await client.get("/api/users/currentuser")
    return UUID(answer.json()["currentUser"]["id"])


async def sign_up(client: httpx.AsyncClient, email: str, password: str = PASSWORD) -> UUID:
    """Sign somebody up; the client is signed in afterwards. Return their id."""
    answer = await client.post("/api/users/signup", json={"email": email, "password": password})
    assert answer.status_code == 201, answer.text
    return UUID(answer.json()["id"])


async def sign_in(client: httpx.AsyncClient, email: str, password: str = PASSWORD) -> None:
    """Sign somebody in; the client keeps the session."""
    answer = await client.post("/api/users/signin", json={"email": email, "password": password})
    assert answer.status_code == 200, answer.text


def messages_of(answer: httpx.Response) -> list[tuple[str, str | None]]:
    """Return an error body's (message, field) pairs, having checked that it is one."""
    body = answer.json()
    assert list(body) == ["errors"]
    for each in body["errors"]:
        assert each.keys() <= {"message", "field"}
        assert each["message"]
    return [(each["message"], each.get("field")) for each in body["errors"]]


async def published_by(app: App, service: str, event: str | None = None) -> list[dict[str, Any]]:
    """Return the events that a service published, oldest first, from its outbox: `{"type": …, **data}`."""
    rows = await app.running[service].database.fetch("SELECT type, data FROM outbox ORDER BY position")
    published = [{"type": row["type"], **json.loads(row["data"])} for row in rows]
    return [each for each in published if event is None or each["type"] == event]


async def eventually(condition: Callable[[], Awaitable[object]], what: str, seconds: float = 30.0) -> Any:
    """Return the condition's first true value; fail with `what` was waited for when it does not come in time."""
    deadline = clock.monotonic_seconds() + seconds
    while not (value := await condition()):
        assert clock.monotonic_seconds() < deadline, f"not in {seconds} s: {what}"
        await asyncio.sleep(0.01)
    return value
