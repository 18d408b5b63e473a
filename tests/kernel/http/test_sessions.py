"""Sessions: ended ones are refused by every process within a second; keys are fetched rarely and kept."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from admitone.auth.tokens import SigningKeys, new_signing_key
from admitone.events import SessionRevoked
from admitone.kernel import clock
from admitone.kernel.errors import Unavailable
from admitone.kernel.http.sessions import Sessions, SignedInUser, TokenVerifier, session_revoked
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.event import unwrap, wrap
from admitone.kernel.messaging.inbox import Inbox
from tests.kernel.support import World
from tests.support import eventually


class Keys:
    """Auth's published keys, as another service gets them; `is_away` when auth is."""

    def __init__(self) -> None:
        self.signing = SigningKeys.from_pem(new_signing_key())
        self.is_unreachable = False
        self.asked = 0

    async def fetch(self) -> bytes:
        self.asked += 1
        if self.is_unreachable:
            raise ConnectionError
        return msgspec.json.encode(self.signing.published)


def person(hours: float = 1) -> SignedInUser:
    expires_at = (clock.now() + timedelta(hours=hours)).timestamp()
    return SignedInUser(id=new_id(), email="alice@example.com", session_id=new_id(), expires_at=expires_at)


async def test_s16_a_revoked_session_is_noticed_by_another_process_within_a_second(world: World) -> None:
    keys, alice = Keys(), person()
    token = keys.signing.sign(alice, clock.now())
    subscriptions, elsewhere = Sessions(TokenVerifier(keys.fetch)), Sessions(TokenVerifier(keys.fetch))
    for identity, database in (
        (subscriptions, world.beta),
        (elsewhere, await world.database(world.beta_fresh, "beta")),
    ):
        world.run(identity.follow_revocations(database))
        assert await identity.person(token) == SignedInUser(
            alice.id, alice.email, alice.session_id, int(alice.expires_at)
        )

    event = SessionRevoked(session_id=alice.session_id, user_id=alice.id, expires_at=clock.now() + timedelta(hours=1))
    message = wrap(new_id(), "auth", "SessionRevoked", event.aggregate, clock.now(), event.encode(), None)
    inbox = Inbox("beta", world.beta, await world.bus("beta"), {SessionRevoked: session_revoked})
    for _ in range(2):
        async with world.beta.transaction() as tx:
            await inbox.consume(tx, [unwrap(message)])

    async def refused_everywhere() -> bool:
        return await subscriptions.person(token) is None and await elsewhere.person(token) is None

    await eventually(refused_everywhere, "both processes refuse the session", seconds=1)


async def test_s16_an_expired_token_is_refused_though_it_was_verified_before() -> None:
    keys, alice = Keys(), person(hours=0.5 / 3600)
    identity = Sessions(TokenVerifier(keys.fetch))
    token = keys.signing.sign(alice, clock.now())
    assert await Sessions(TokenVerifier(keys.fetch)).person(keys.signing.sign(person(hours=-1), clock.now())) is None

    async def is_refused() -> bool:
        return await identity.person(token) is None

    await eventually(is_refused, "the token has expired", seconds=3)


async def test_keys_are_fetched_once_kept_while_auth_is_away_and_not_asked_for_by_forgers() -> None:
    keys, alice = Keys(), person()
    identity = Sessions(TokenVerifier(keys.fetch))
    token = keys.signing.sign(alice, clock.now())
    foreign = SigningKeys.from_pem(new_signing_key()).sign(alice, clock.now())
    assert await identity.person(token) is not None

    keys.is_unreachable = True
    found = await asyncio.gather(*(identity.person(foreign) for _ in range(20)))
    assert found == [None] * 20
    assert await identity.person(token) is not None
    assert keys.asked <= 2


async def test_without_any_key_nobody_is_refused_for_good() -> None:
    keys = Keys()
    keys.is_unreachable = True
    identity = Sessions(TokenVerifier(keys.fetch))
    token = keys.signing.sign(person(), clock.now())
    with pytest.raises(Unavailable):
        await identity.person(token)
    keys.is_unreachable = False
    assert await identity.person(token) is not None
