"""Those who guess wait longer and longer; those who do not are not kept waiting for them."""

import asyncio
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import httpx
import pytest
from starlette.requests import Request

from admitone.auth.delays import place_of
from admitone.auth.model import Tries
from admitone.auth.passwords import QUEUE, WORKERS
from admitone.auth.resources import Resources
from admitone.auth.service import SERVICE
from admitone.kernel.errors import TooManyRequests
from admitone.kernel.runner import App
from tests.engines import Databases
from tests.support import PASSWORD, StartNats, app_of, messages_of, running_app, settings_for, sign_in, sign_up

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
FREE = 5
WRONG = "not the password"


async def try_to_sign_in(
    client: httpx.AsyncClient, email: str = "alice@example.com", password: str = WRONG
) -> httpx.Response:
    return await client.post("/api/users/signin", json={"email": email, "password": password})


async def let_pass(app: App, seconds: int) -> None:
    """Make everything that was tried lie further back."""
    await app.running["auth"].database.execute(
        "UPDATE tries SET last_at = last_at - make_interval(secs => $1), "
        "wait_until = wait_until - make_interval(secs => $1)",
        float(seconds),
    )


async def guess_until_delayed(app: App, client: httpx.AsyncClient, email: str = "alice@example.com") -> None:
    """Guess until the next try has to wait for 8 seconds: time enough for a slow machine to be refused in."""
    for wait_seconds in (0, 0, 0, 0, 1, 2, 4, 0):
        assert (await try_to_sign_in(client, email)).status_code == 400
        await let_pass(app, wait_seconds)


def browser_at(app: App, address: str) -> httpx.AsyncClient:
    """A browser whose requests come from an address of its own."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app, client=(address, 1)), base_url="http://127.0.0.1")


def assert_too_many(answer: httpx.Response) -> None:
    assert (answer.status_code, messages_of(answer)) == (429, [("Too many tries; wait a moment", None)])
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_each_try_beyond_the_free_ones_doubles_the_wait_up_to_a_minute() -> None:
    tries, now, waits = Tries(b"", 0, NOON, NOON), NOON, []
    for _ in range(40):
        tries = tries.one_more(now, FREE)
        waits.append((tries.wait_until - now).total_seconds())
        now = tries.wait_until
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, *[60] * 30]


def test_a_try_that_comes_too_early_is_refused_with_the_seconds_left() -> None:
    tries = Tries(b"", FREE, NOON, NOON + timedelta(seconds=8))
    with pytest.raises(TooManyRequests) as refused:
        tries.one_more(NOON + timedelta(seconds=1.5), FREE)
    assert refused.value.retry_after_seconds == 7
    assert tries.one_more(NOON + timedelta(seconds=8), FREE).count == FREE + 1


def test_tries_are_forgotten_after_an_hour() -> None:
    tries = Tries(b"", 500, NOON, NOON + timedelta(seconds=60))
    assert tries.one_more(NOON + timedelta(hours=1), FREE).count == 501
    assert tries.one_more(NOON + timedelta(hours=1, seconds=1), FREE).count == 1


@pytest.mark.parametrize("email", ["alice@example.com", "nobody@example.com"])
async def test_who_guesses_has_to_wait_whether_or_not_there_is_an_account(
    app: App, alice: httpx.AsyncClient, somebody: httpx.AsyncClient, email: str
) -> None:
    await guess_until_delayed(app, somebody, email)
    assert_too_many(await try_to_sign_in(somebody, email))
    assert_too_many(await try_to_sign_in(somebody, email, PASSWORD))
    for _ in range(5):
        await let_pass(app, 60)
        assert (await try_to_sign_in(somebody, email, WRONG)).status_code == 400
        assert_too_many(await try_to_sign_in(somebody, email))


async def test_a_success_clears_what_was_counted_against_the_account(app: App, alice: httpx.AsyncClient) -> None:
    for _ in range(2):
        for _ in range(FREE - 1):
            assert (await try_to_sign_in(alice)).status_code == 400
        await sign_in(alice, "alice@example.com")
    await guess_until_delayed(app, alice)
    await let_pass(app, 8)
    await sign_in(alice, "alice@example.com")
    assert (await try_to_sign_in(alice)).status_code == 400


async def test_many_guesses_at_once_gain_nothing(app: App, alice: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(try_to_sign_in(alice) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [400] * FREE + [429] * 7


async def test_strangers_guesses_do_not_keep_alice_waiting_where_she_is_known(app: App) -> None:
    async with browser_at(app, "198.51.100.7") as alice, browser_at(app, "203.0.113.9") as stranger:
        await sign_up(alice, "alice@example.com")
        await guess_until_delayed(app, stranger)
        assert_too_many(await try_to_sign_in(stranger))
        async with browser_at(app, "192.0.2.1") as elsewhere:
            assert_too_many(await try_to_sign_in(elsewhere, password=PASSWORD))
        await sign_in(alice, "alice@example.com")
        assert_too_many(await try_to_sign_in(stranger))


async def test_one_network_that_guesses_at_many_accounts_has_to_wait(app: App, alice: httpx.AsyncClient) -> None:
    for number in range(33):
        await let_pass(app, 4 if number >= 30 else 0)
        async with browser_at(app, f"203.0.113.{number}") as stranger:
            assert (await try_to_sign_in(stranger, f"person{number}@example.com")).status_code == 400
    async with browser_at(app, "203.0.113.200") as stranger, browser_at(app, "203.0.112.200") as neighbour:
        assert_too_many(await try_to_sign_in(stranger, "another@example.com"))
        taken = {"email": "alice@example.com", "password": PASSWORD}
        assert_too_many(await stranger.post("/api/users/signup", json=taken))
        assert (await try_to_sign_in(neighbour, "another@example.com")).status_code == 400


async def test_asking_which_emails_have_accounts_is_counted_and_signing_up_is_not(app: App) -> None:
    async with browser_at(app, "203.0.113.9") as client:
        for number in range(5):
            await sign_up(client, f"person{number}@example.com")
        taken = {"email": "person1@example.com", "password": PASSWORD}
        for _ in range(3):
            assert (await client.post("/api/users/signup", json=taken)).status_code == 400
    assert await app.running["auth"].database.fetchval("SELECT count FROM tries") == 3


async def test_guessing_the_present_password_is_counted_too(app: App, alice: httpx.AsyncClient) -> None:
    change = {"currentPassword": WRONG, "password": "another password"}
    for wait_seconds in (0, 0, 0, 0, 1, 2, 4, 0):
        assert (await alice.put("/api/users/currentuser", json=change)).status_code == 400
        await let_pass(app, wait_seconds)
    assert_too_many(await alice.put("/api/users/currentuser", json=change))
    assert_too_many(await try_to_sign_in(alice))


async def test_the_delays_survive_a_restart(databases: Databases, start_nats: StartNats) -> None:
    settings = await settings_for(databases, start_nats, SERVICE)
    async with app_of([SERVICE], settings) as app, app.client() as client:
        await guess_until_delayed(app, client)
    async with app_of([SERVICE], settings) as app, app.client() as client:
        assert_too_many(await try_to_sign_in(client))


async def test_what_is_counted_tells_nobody_what_was_typed(app: App, somebody: httpx.AsyncClient) -> None:
    await try_to_sign_in(somebody, "typed-the-password-here@example.com")
    rows = await app.running["auth"].database.fetch("SELECT about FROM tries")
    assert sorted(len(row["about"]) for row in rows) == [32, 32]


def request_from(peer: str | None, *forwarded: str) -> Request:
    headers = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    return Request({"type": "http", "client": (peer, 1) if peer else None, "headers": headers})


@pytest.mark.parametrize(
    ("peer", "forwarded", "trust_proxy", "place"),
    [
        ("203.0.113.9", [], False, "203.0.113.0/24"),
        ("2001:db8:1:2ff:3::4", [], False, "2001:db8:1:200::/56"),
        ("::ffff:203.0.113.9", [], False, "203.0.113.0/24"),
        ("10.0.0.1", ["203.0.113.9"], False, "10.0.0.0/24"),
        ("10.0.0.1", ["203.0.113.9"], True, "203.0.113.0/24"),
        ("10.0.0.1", ["192.0.2.66, 203.0.113.9"], True, "203.0.113.0/24"),
        ("10.0.0.1", ["192.0.2.66", "198.51.100.1, 2001:db8::1"], True, "2001:db8::/56"),
        ("10.0.0.1", [], True, "10.0.0.0/24"),
        ("10.0.0.1", ["unknown"], True, "0.0.0.0/24"),
        (None, [], False, "0.0.0.0/24"),
    ],
)
def test_a_place_is_a_network_and_only_a_trusted_proxy_may_name_it(
    peer: str | None, forwarded: list[str], trust_proxy: bool, place: str
) -> None:
    assert place_of(request_from(peer, *forwarded), trust_proxy=trust_proxy) == ip_network(place)


async def test_a_forged_forwarding_header_makes_nobody_new(app: App, somebody: httpx.AsyncClient) -> None:
    for number in range(3):
        credentials = {"email": f"nobody{number}@example.com", "password": PASSWORD}
        header = {"x-forwarded-for": f"203.0.{number}.1"}
        await somebody.post("/api/users/signin", json=credentials, headers=header)
    # Three accounts that do not exist, and one network.
    counts = await app.running["auth"].database.fetch("SELECT count FROM tries ORDER BY count")
    assert [row["count"] for row in counts] == [1, 1, 1, 3]


async def test_visitors_behind_a_trusted_proxy_are_counted_apart(databases: Databases, start_nats: StartNats) -> None:
    async with running_app(databases, start_nats, SERVICE, trust_proxy=True) as app, app.client() as proxy:
        for number in range(3):
            answer = await proxy.post(
                "/api/users/signin",
                json={"email": f"nobody{number}@example.com", "password": PASSWORD},
                headers={"x-forwarded-for": f"203.0.{number}.1"},
            )
            assert answer.status_code == 400
        assert await app.running["auth"].database.fetchval("SELECT max(count) FROM tries") == 1


async def test_when_the_line_for_hashing_is_full_people_are_asked_to_come_back(
    app: App, alice: httpx.AsyncClient
) -> None:
    own = app.running["auth"].resources
    assert isinstance(own, Own)
    credentials = {"email": "bob@example.com", "password": PASSWORD}
    with ExitStack() as line:
        for _ in range(WORKERS + QUEUE):
            line.enter_context(own.passwords.turn())
        for method, path, body in (
            ("POST", "/api/users/signup", credentials),
            ("POST", "/api/users/signin", credentials),
            ("PUT", "/api/users/currentuser", {"currentPassword": PASSWORD, "password": "another password"}),
        ):
            answer = await alice.request(method, path, json=body)
            assert answer.status_code == 503
            assert messages_of(answer) == [("Many people are signing in right now; try again in a moment", None)]
            assert answer.headers["retry-after"] == "2"
    # Being turned away was not held against anybody, and everything works again.
    assert await app.running["auth"].database.fetchval("SELECT coalesce(sum(count), 0) FROM tries") == 0
    assert (await alice.post("/api/users/signup", json=credentials)).status_code == 201


async def test_a_rush_at_the_door_neither_fails_nor_holds_up_anything_else(app: App, alice: httpx.AsyncClient) -> None:
    async def arrive(number: int) -> int:
        async with browser_at(app, f"203.0.{number}.1") as client:
            credentials = {"email": f"person{number}@example.com", "password": PASSWORD}
            return (await client.post("/api/users/signup", json=credentials)).status_code

    rush = asyncio.gather(*(arrive(number) for number in range(60)))
    answered_meanwhile = 0
    while not (await asyncio.wait({rush}, timeout=0.005))[0]:
        assert (await alice.get("/api/users/currentuser")).json()["currentUser"] is not None
        answered_meanwhile += 1
    statuses = await rush
    assert statuses.count(201) > WORKERS
    assert set(statuses) == {201, 503}
    # A loop that hashed by itself would have answered once or not at all.
    assert answered_meanwhile > 10
