"""Sessions: forged, expired and revoked tokens are refused, and public keys are fetched rarely and kept."""

import asyncio
import base64
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from starlette.datastructures import Headers

from admitone.auth.tokens import SigningKeys, new_signing_key
from admitone.events import SessionRevoked
from admitone.kernel import clock
from admitone.kernel.errors import Unavailable
from admitone.kernel.http.sessions import Sessions, SignedInUser, TokenVerifier, session_revoked, session_tokens
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.event import unwrap, wrap
from admitone.kernel.messaging.inbox import Inbox
from admitone.kernel.runner import App
from tests.kernel.http.support import error_of, forged
from tests.kernel.support import World
from tests.support import eventually, set_token, signed_in


class Keys:
    """Auth's public keys, as another service fetches them."""

    def __init__(self) -> None:
        self.signing = SigningKeys.from_pem(new_signing_key())
        self.is_unreachable = False
        self.fetches = 0

    async def fetch(self) -> bytes:
        self.fetches += 1
        if self.is_unreachable:
            raise ConnectionError
        return msgspec.json.encode(self.signing.published)


def session(hours: float = 1) -> SignedInUser:
    expires_at = (clock.now() + timedelta(hours=hours)).timestamp()
    return SignedInUser(id=new_id(), email="alice@example.com", session_id=new_id(), expires_at=expires_at)


async def test_s16_a_revoked_session_is_refused_by_every_process_within_a_second(world: World) -> None:
    keys, alice = Keys(), session()
    token = keys.signing.sign(alice, clock.now())
    here, elsewhere = Sessions(TokenVerifier(keys.fetch)), Sessions(TokenVerifier(keys.fetch))
    for sessions, database in (
        (here, world.beta),
        (elsewhere, await world.database(world.beta_fresh, "beta")),
    ):
        world.run(sessions.follow_revocations(database))
        assert await sessions.user(token) == SignedInUser(
            alice.id, alice.email, alice.session_id, int(alice.expires_at)
        )

    event = SessionRevoked(session_id=alice.session_id, user_id=alice.id, expires_at=clock.now() + timedelta(hours=1))
    message = wrap(new_id(), "auth", "SessionRevoked", event.aggregate, clock.now(), event.encode(), None)
    inbox = Inbox("beta", world.beta, await world.bus("beta"), {SessionRevoked: session_revoked})
    for _ in range(2):
        async with world.beta.transaction() as tx:
            await inbox.consume(tx, [unwrap(message)])

    async def refused_everywhere() -> bool:
        return await here.user(token) is None and await elsewhere.user(token) is None

    await eventually(refused_everywhere, "both processes refuse the session", seconds=1)


async def test_a_revocation_is_forgotten_by_every_replica_once_the_token_has_expired(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a process without a database, which learns of revocations from the bus."""
    keys, seconds = Keys(), 0.0
    monkeypatch.setattr(clock, "_wall_source", lambda: 1_000_000_000.0 + seconds)
    monkeypatch.setattr(clock, "_monotonic_source", lambda: seconds)
    here, elsewhere, without_database = (Sessions(TokenVerifier(keys.fetch)) for _ in range(3))
    ended, later = session(hours=1), session(hours=24)
    async with world.beta.transaction() as tx:
        for each in (ended, later):
            until = datetime.fromtimestamp(each.expires_at, UTC)
            await session_revoked(tx, SessionRevoked(session_id=each.session_id, user_id=each.id, expires_at=until))
    for each in (ended, later):
        without_database.revoke(each.session_id, each.expires_at)
    for replica in (here, elsewhere):
        await replica.read_revocations(world.beta)
        assert replica._revoked.keys() == {ended.session_id, later.session_id}

    await world.beta.execute("DELETE FROM revoked_session")  # as another replica does, by the database's clock
    seconds = 5 * 3600.0
    without_database.revoke(later.session_id, later.expires_at)
    for replica in (here, elsewhere):
        await replica.read_revocations(world.beta)
    for replica in (here, elsewhere, without_database):
        assert replica._revoked.keys() == {later.session_id}
        assert await replica.user(keys.signing.sign(later, clock.now())) is None


async def test_s16_an_expired_token_is_refused_though_it_was_verified_before() -> None:
    keys, alice = Keys(), session(hours=0.5 / 3600)
    sessions = Sessions(TokenVerifier(keys.fetch))
    token = keys.signing.sign(alice, clock.now())
    assert await Sessions(TokenVerifier(keys.fetch)).user(keys.signing.sign(session(hours=-1), clock.now())) is None

    async def is_refused() -> bool:
        return await sessions.user(token) is None

    await eventually(is_refused, "the token has expired", seconds=3)


async def test_keys_are_fetched_once_kept_while_auth_is_down_and_not_fetched_for_every_forged_token() -> None:
    keys, alice = Keys(), session()
    sessions = Sessions(TokenVerifier(keys.fetch))
    token = keys.signing.sign(alice, clock.now())
    foreign = SigningKeys.from_pem(new_signing_key()).sign(alice, clock.now())
    assert await sessions.user(token) is not None

    keys.is_unreachable = True
    found = await asyncio.gather(*(sessions.user(foreign) for _ in range(20)))
    assert found == [None] * 20
    assert await sessions.user(token) is not None
    assert keys.fetches <= 2


async def test_without_any_key_a_token_is_not_refused_for_good() -> None:
    keys = Keys()
    keys.is_unreachable = True
    sessions = Sessions(TokenVerifier(keys.fetch))
    token = keys.signing.sign(session(), clock.now())
    with pytest.raises(Unavailable):
        await sessions.user(token)
    keys.is_unreachable = False
    assert await sessions.user(token) is not None


async def test_a_withdrawn_key_signs_nobody_in_although_its_tokens_were_verified_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys, seconds = Keys(), 1000.0
    monkeypatch.setattr(clock, "monotonic_seconds", lambda: seconds)
    sessions, used_meanwhile = Sessions(TokenVerifier(keys.fetch)), Sessions(TokenVerifier(keys.fetch))
    token = keys.signing.sign(session(), clock.now())
    for each in (sessions, used_meanwhile):
        assert await each.user(token) is not None

    keys.signing = SigningKeys.from_pem(new_signing_key())
    replacement = keys.signing.sign(session(), clock.now())
    seconds += 31
    assert await used_meanwhile.user(replacement) is not None
    assert await used_meanwhile.user(token) is None, "its key was missing when another key was fetched"
    seconds += 30
    assert await sessions.user(token) is None
    assert await sessions.user(replacement) is not None

    keys.is_unreachable, fetches = True, keys.fetches
    seconds += 3600
    for _ in range(5):
        assert await sessions.user(replacement) is not None, "the last keys count while auth is down"
    assert keys.fetches == fetches + 1


BAD_TOKENS = [
    "x",
    "..",
    "a.b.c",
    "x" * 5000,
    forged(b"[" * 1400),
    forged({"alg": "none", "typ": "at+jwt", "kid": "x"}),
    forged({"alg": "HS256", "typ": "at+jwt", "kid": "x"}),
    forged({"alg": "EdDSA", "typ": "JWT", "kid": "x"}),
    forged({"alg": "EdDSA", "typ": "at+jwt", "kid": ["x"]}),
    forged({"alg": "EdDSA", "typ": "at+jwt", "kid": "unknown"}),
    forged({"alg": "EdDSA", "typ": "at+jwt"}),
    forged(b"[]"),
    forged(b"\xff"),
]


async def test_g03_a_malformed_or_forged_token_is_refused(app: App) -> None:
    async with app.client() as mallory:
        for token in BAD_TOKENS:
            set_token(mallory, token)
            response = await mallory.post("/api/notes", json={"text": "x"})
            assert error_of(response) == (401, [("Not authorized", None)]), token[:40]


async def test_g03_a_token_with_any_changed_part_is_refused(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        token = alice.cookies["session"]
        assert (await alice.post("/api/notes", json={"text": "x"})).status_code == 201
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    swapped = base64.urlsafe_b64encode(json.dumps({**claims, "sub": str(new_id())}).encode()).decode().rstrip("=")
    for changed in (f"{head}.{swapped}.{signature}", f"{head}.{body}.{'A' * len(signature)}", f"{head}.{body}."):
        async with app.client() as mallory:
            set_token(mallory, changed)
            assert (await mallory.post("/api/notes", json={"text": "x"})).status_code == 401


async def test_cookies_of_other_applications_sign_nobody_out(app: App) -> None:
    async with signed_in(app, "alice") as alice, app.client() as visitor:
        token = alice.cookies["session"]
        stale = forged({"typ": "at+jwt", "alg": "EdDSA", "kid": "another"})
        for lines in (
            [f"session=something-else; session={token}"],
            [f"session={stale}; session={token}"],
            [f"session={token}; session={stale}"],
            [f"my_session_id=1; session={token}; session_id=2"],
            ["theme=dark", f"session={stale}", f"session={token}"],
            [f'a="x;y=1"; Session=x;session={token};=;;'],
        ):
            headers = [("cookie", line) for line in lines] + [("content-type", "application/json")]
            response = await visitor.post("/api/notes", content=b'{"text": "hello"}', headers=headers)
            assert response.status_code == 201, lines


@pytest.mark.parametrize(
    "value", ["", "a", "a.b", "a.b.c.d", "a.b.é", 'a.b."', "a. b.c", "a.b\rc.d", "%0d%0a.b.c", "a.b." + "c" * 3000]
)
def test_what_cannot_be_a_token_is_left_out(value: str) -> None:
    assert session_tokens(Headers(raw=[(b"cookie", f"session={value}".encode())]), "session") == []


def test_a_bounded_number_of_tokens_is_verified() -> None:
    cookies = "; ".join(f"session=a.b.{number}" for number in range(1000))
    assert len(session_tokens(Headers(raw=[(b"cookie", cookies.encode())]), "session")) == 20
