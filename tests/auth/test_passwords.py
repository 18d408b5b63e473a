"""Password hashing: what is stored, how long it takes, and what happens when too many want it."""

import asyncio
import statistics
from contextlib import ExitStack
from time import perf_counter

import httpx
from argon2 import PasswordHasher

from admitone.auth.passwords import QUEUED_MAX, THREADS
from admitone.auth.resources import Resources
from admitone.kernel.runner import App
from tests.auth.support import client_at, try_sign_in
from tests.support import PASSWORD, messages_of, sign_in, sign_up

ARGON2ID = "$argon2id$v=19$m=19456,t=2,p=1$"
SECRET = "zxcvbnm-do-not-repeat"


async def test_passwords_are_stored_as_argon2id_and_never_published(app: App, visitor: httpx.AsyncClient) -> None:
    await sign_up(visitor, "alice@example.com", SECRET)
    db = app.running["auth"].database
    (row,) = await db.fetch("SELECT * FROM account")
    assert row["password_hash"].startswith(ARGON2ID)
    assert SECRET not in str(dict(row))
    assert SECRET not in str([dict(each) for each in await db.fetch("SELECT * FROM outbox")])


async def test_an_outdated_hash_is_replaced_at_sign_in(app: App, alice: httpx.AsyncClient) -> None:
    weak = PasswordHasher(memory_cost=8, time_cost=1, parallelism=1).hash(PASSWORD)
    db = app.running["auth"].database
    await db.execute("UPDATE account SET password_hash = $1", weak)
    for _ in range(2):
        await sign_in(alice, "alice@example.com")
        assert (await db.fetchval("SELECT password_hash FROM account")).startswith(ARGON2ID)
    assert await db.fetchval("SELECT version FROM account") == 0


async def test_an_unknown_email_takes_as_long_as_a_wrong_password(
    alice: httpx.AsyncClient, visitor: httpx.AsyncClient
) -> None:
    async def seconds(email: str) -> float:
        began = perf_counter()
        assert (await try_sign_in(visitor, email)).status_code == 400
        return perf_counter() - began

    pairs = [(await seconds("alice@example.com"), await seconds(f"nobody{number}@example.com")) for number in range(4)]
    known, unknown = zip(*pairs, strict=True)
    # Without hashing for unknown e-mails the ratio would be about a tenth.
    assert 0.5 < statistics.median(unknown) / statistics.median(known) < 2


async def test_requests_beyond_the_hashing_slots_are_refused_and_not_counted(
    app: App, alice: httpx.AsyncClient
) -> None:
    resources = app.running["auth"].resources
    assert isinstance(resources, Resources)
    credentials = {"email": "bob@example.com", "password": PASSWORD}
    with ExitStack() as slots:
        for _ in range(THREADS + QUEUED_MAX):
            slots.enter_context(resources.passwords.slot())
        for method, path, body in (
            ("POST", "/api/users/signup", credentials),
            ("POST", "/api/users/signin", credentials),
            ("PUT", "/api/users/currentuser", {"currentPassword": PASSWORD, "password": "another password"}),
        ):
            response = await alice.request(method, path, json=body)
            assert response.status_code == 503
            assert messages_of(response) == [("Many people are signing in right now; try again in a moment", None)]
            assert response.headers["retry-after"] == "2"
    # The refused requests were not counted, and everything works again.
    assert await app.running["auth"].database.fetchval("SELECT coalesce(sum(count), 0) FROM attempts") == 0
    assert (await alice.post("/api/users/signup", json=credentials)).status_code == 201


async def test_a_burst_of_sign_ups_neither_fails_nor_blocks_other_requests(app: App, alice: httpx.AsyncClient) -> None:
    async def sign_up_from(number: int) -> int:
        async with client_at(app, f"203.0.{number}.1") as client:
            credentials = {"email": f"user{number}@example.com", "password": PASSWORD}
            return (await client.post("/api/users/signup", json=credentials)).status_code

    burst = asyncio.gather(*(sign_up_from(number) for number in range(60)))
    answered = 0
    while not (await asyncio.wait({burst}, timeout=0.005))[0]:
        assert (await alice.get("/api/users/currentuser")).json()["currentUser"] is not None
        answered += 1
    statuses = await burst
    assert statuses.count(201) > THREADS
    assert set(statuses) == {201, 503}
    # If passwords were hashed on the event loop, there would be one response at most.
    assert answered > 10
