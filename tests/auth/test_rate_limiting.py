"""Failed attempts cause growing delays, and only for those who make them."""

import asyncio
from ipaddress import ip_network

import httpx
import pytest

from admitone.auth.model import RateLimit
from admitone.auth.rate_limiting import count_attempt, record_success
from admitone.auth.service import SERVICE
from admitone.kernel.runner import App
from tests.auth.support import WRONG_PASSWORD, client_at, try_sign_in
from tests.engines import Databases
from tests.support import (
    PASSWORD,
    StartNats,
    app_of,
    eventually,
    messages_of,
    running_app,
    settings_for,
    sign_in,
    sign_up,
)

FREE_ATTEMPTS = 5
CONCURRENT = 4
ROUNDS = 8


async def advance_time(app: App, seconds: int) -> None:
    """Move all counters back in time, as if this many seconds had passed."""
    await app.running["auth"].database.execute(
        "UPDATE attempts SET last_at = last_at - make_interval(secs => $1), "
        "wait_until = wait_until - make_interval(secs => $1)",
        float(seconds),
    )


async def attempt_until_delayed(app: App, client: httpx.AsyncClient, email: str = "alice@example.com") -> None:
    """Fail until the next delay is 8 seconds, which is long enough for a slow machine to be refused within."""
    for delay_seconds in (0, 0, 0, 0, 1, 2, 4, 0):
        assert (await try_sign_in(client, email)).status_code == 400
        await advance_time(app, delay_seconds)


def assert_too_many_requests(response: httpx.Response) -> None:
    assert (response.status_code, messages_of(response)) == (429, [("Too many tries; wait a moment", None)])
    assert 1 <= int(response.headers["retry-after"]) <= 60


@pytest.mark.parametrize("email", ["alice@example.com", "nobody@example.com"])
async def test_failed_attempts_are_delayed_whether_or_not_the_account_exists(
    app: App, alice: httpx.AsyncClient, visitor: httpx.AsyncClient, email: str
) -> None:
    await attempt_until_delayed(app, visitor, email)
    assert_too_many_requests(await try_sign_in(visitor, email))
    assert_too_many_requests(await try_sign_in(visitor, email, PASSWORD))
    for _ in range(5):
        await advance_time(app, 60)
        assert (await try_sign_in(visitor, email, WRONG_PASSWORD)).status_code == 400
        assert_too_many_requests(await try_sign_in(visitor, email))


async def test_a_success_resets_the_counter_of_the_account(app: App, alice: httpx.AsyncClient) -> None:
    for _ in range(2):
        for _ in range(FREE_ATTEMPTS - 1):
            assert (await try_sign_in(alice)).status_code == 400
        await sign_in(alice, "alice@example.com")
    await attempt_until_delayed(app, alice)
    await advance_time(app, 8)
    await sign_in(alice, "alice@example.com")
    assert (await try_sign_in(alice)).status_code == 400


async def test_concurrent_attempts_are_limited_like_sequential_ones(app: App, alice: httpx.AsyncClient) -> None:
    responses = await asyncio.gather(*(try_sign_in(alice) for _ in range(12)))
    assert sorted(response.status_code for response in responses) == [400] * FREE_ATTEMPTS + [429] * 7


async def test_attempts_from_elsewhere_do_not_delay_alice_in_a_known_network(app: App) -> None:
    async with client_at(app, "198.51.100.7") as alice, client_at(app, "203.0.113.9") as stranger:
        await sign_up(alice, "alice@example.com")
        await attempt_until_delayed(app, stranger)
        assert_too_many_requests(await try_sign_in(stranger))
        async with client_at(app, "192.0.2.1") as elsewhere:
            assert_too_many_requests(await try_sign_in(elsewhere, password=PASSWORD))
        await sign_in(alice, "alice@example.com")
        assert_too_many_requests(await try_sign_in(stranger))


async def test_one_network_that_attacks_many_accounts_is_delayed(app: App, alice: httpx.AsyncClient) -> None:
    for number in range(33):
        await advance_time(app, 4 if number >= 30 else 0)
        async with client_at(app, f"203.0.113.{number}") as stranger:
            assert (await try_sign_in(stranger, f"user{number}@example.com")).status_code == 400
    async with client_at(app, "203.0.113.200") as stranger, client_at(app, "203.0.112.200") as neighbour:
        assert_too_many_requests(await try_sign_in(stranger, "another@example.com"))
        taken = {"email": "alice@example.com", "password": PASSWORD}
        assert_too_many_requests(await stranger.post("/api/users/signup", json=taken))
        assert (await try_sign_in(neighbour, "another@example.com")).status_code == 400


async def test_probing_for_accounts_is_counted_and_signing_up_is_not(app: App) -> None:
    async with client_at(app, "203.0.113.9") as client:
        for number in range(5):
            await sign_up(client, f"user{number}@example.com")
        taken = {"email": "user1@example.com", "password": PASSWORD}
        for _ in range(3):
            assert (await client.post("/api/users/signup", json=taken)).status_code == 400
    assert await app.running["auth"].database.fetchval("SELECT count FROM attempts") == 3


async def test_attempts_at_the_current_password_are_counted_too(app: App, alice: httpx.AsyncClient) -> None:
    change = {"currentPassword": WRONG_PASSWORD, "password": "another password"}
    for delay_seconds in (0, 0, 0, 0, 1, 2, 4, 0):
        assert (await alice.put("/api/users/currentuser", json=change)).status_code == 400
        await advance_time(app, delay_seconds)
    assert_too_many_requests(await alice.put("/api/users/currentuser", json=change))
    assert_too_many_requests(await try_sign_in(alice))


async def test_delays_survive_a_restart(databases: Databases, start_nats: StartNats) -> None:
    settings = await settings_for(databases, start_nats, SERVICE)
    async with app_of([SERVICE], settings) as app, app.client() as client:
        await attempt_until_delayed(app, client)
    async with app_of([SERVICE], settings) as app, app.client() as client:
        assert_too_many_requests(await try_sign_in(client))


async def test_counters_do_not_reveal_what_was_typed(app: App, visitor: httpx.AsyncClient) -> None:
    await try_sign_in(visitor, "typed-the-password-here@example.com")
    rows = await app.running["auth"].database.fetch("SELECT key FROM attempts")
    assert sorted(len(row["key"]) for row in rows) == [32, 32]


async def test_a_forged_forwarding_header_does_not_change_the_network(app: App, visitor: httpx.AsyncClient) -> None:
    for number in range(3):
        credentials = {"email": f"nobody{number}@example.com", "password": PASSWORD}
        header = {"x-forwarded-for": f"203.0.{number}.1"}
        await visitor.post("/api/users/signin", json=credentials, headers=header)
    # One counter for each of three unknown accounts, and one for the network.
    counts = await app.running["auth"].database.fetch("SELECT count FROM attempts ORDER BY count")
    assert [row["count"] for row in counts] == [1, 1, 1, 3]


async def test_clients_behind_a_trusted_proxy_are_counted_separately(
    databases: Databases, start_nats: StartNats
) -> None:
    async with running_app(databases, start_nats, SERVICE, trust_proxy=True) as app, app.client() as proxy:
        for number in range(3):
            response = await proxy.post(
                "/api/users/signin",
                json={"email": f"nobody{number}@example.com", "password": PASSWORD},
                headers={"x-forwarded-for": f"203.0.{number}.1"},
            )
            assert response.status_code == 400
        assert await app.running["auth"].database.fetchval("SELECT max(count) FROM attempts") == 1


async def test_concurrent_successes_and_attempts_do_not_deadlock(app: App) -> None:
    """Several accounts, since the order of two locks depends on the account's key."""
    database = app.running["auth"].database
    network_limit = RateLimit(RateLimit.of_network(ip_network("192.0.2.0/24")).key, free_attempts=1000)

    async def succeed(account_limit: RateLimit) -> None:
        await count_attempt(database, [account_limit, network_limit])
        async with database.transaction() as tx:
            await record_success(tx, network_limit, account_limit)

    for number in range(ROUNDS):
        account_limit = RateLimit(RateLimit.of_account(f"alice{number}@example.com", None).key, free_attempts=1000)
        await asyncio.gather(*(succeed(account_limit) for _ in range(5 * CONCURRENT)))


async def test_a_blocked_sign_in_does_not_block_others_in_its_network(app: App) -> None:
    async with app.client() as alice:
        await sign_up(alice, "alice@example.com")
        async with app.running["auth"].database.transaction() as tx:
            await tx.execute("SELECT id FROM account WHERE email = 'alice@example.com' FOR UPDATE")
            credentials = {"email": "alice@example.com", "password": PASSWORD}
            waiting = asyncio.create_task(alice.post("/api/users/signin", json=credentials))

            async def is_waiting() -> object:
                return await tx.fetchval("SELECT true FROM pg_locks WHERE NOT granted LIMIT 1")

            await eventually(is_waiting, "alice waits for her account")
            # The counter that attempts of others in her network need is not locked.
            assert await tx.fetch("SELECT key FROM attempts FOR UPDATE NOWAIT")
        assert (await waiting).status_code in {200, 503}  # on a starved machine the lock may time out
