"""Who is asking: every service verifies the session's token by itself, with auth's public keys.

The token is a JWT (RFC 7519) signed with EdDSA (RFC 8037); the algorithm, issuer, audience and type are pinned. A
session that was ended before its token expires is refused as soon as this service has heard of it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

import jwt
import msgspec

from admitone.events import SessionRevoked
from admitone.kernel import clock
from admitone.kernel.database import UNREACHABLE, Database, Transaction
from admitone.kernel.refusals import Unavailable

log = logging.getLogger(__name__)

COOKIE: Final = "session"
ISSUER: Final = "admitone"
AUDIENCE: Final = "admitone"
TOKEN_TYPE: Final = "at+jwt"  # noqa: S105 – RFC 9068's name for the type of token
ALGORITHM: Final = "EdDSA"
_REFETCH_SECONDS: Final = 30.0
_CACHED_TOKENS_MAX: Final = 50_000
_TOKEN_CHARACTERS_MAX: Final = 2048
_NOTICE_EVERY_SECONDS: Final = 0.5
_FORGET_EVERY_SECONDS: Final = 3600.0

_REVOKE: Final = """
INSERT INTO revoked_session (session_id, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING
"""
_NEWS: Final = "SELECT session_id, noticed FROM revoked_session WHERE noticed > $1 ORDER BY noticed"
_FORGET: Final = "DELETE FROM revoked_session WHERE expires_at < instant() RETURNING session_id"

FetchKeys = Callable[[], Awaitable[bytes]]


class Person(msgspec.Struct, frozen=True):
    """Somebody who is signed in."""

    id: UUID
    email: str
    session_id: UUID
    expires_at: float


async def session_revoked(tx: Transaction, event: SessionRevoked) -> None:
    """Refuse a session from now on; every service hears this."""
    await tx.execute(_REVOKE, event.session_id, event.expires_at)


class Tokens:
    """Verifies session tokens with auth's keys; one of these serves every service of a process."""

    def __init__(self, fetch_keys: FetchKeys) -> None:
        self._fetch_keys = fetch_keys
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._verified: dict[str, Person] = {}

    async def holder(self, token: str) -> Person | None:
        """Return to whom a token was given, or None when it is forged or expired.

        Raises Unavailable when the signing keys were never seen and cannot be fetched.
        """
        person = self._verified.get(token)
        if person is None:
            person = await self._verify(token)
            if person is None:
                return None
            if len(self._verified) >= _CACHED_TOKENS_MAX:
                self._verified.clear()
            self._verified[token] = person
        if person.expires_at <= clock.now().timestamp():
            self._verified.pop(token, None)
            return None
        return person

    async def _verify(self, token: str) -> Person | None:
        try:
            header = jwt.get_unverified_header(token)
            if header.get("typ") != TOKEN_TYPE or header.get("alg") != ALGORITHM:
                return None
            key = await self._key(header.get("kid"))
            if key is None:
                return None
            # Expiry is compared below with this process's clock, so that a simulation may replace it.
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={
                    "require": ["sub", "sid", "email", "exp", "iat", "iss", "aud"],
                    "verify_exp": False,
                    "verify_iat": False,
                },
            )
            return Person(
                id=UUID(claims["sub"]),
                email=str(claims["email"]),
                session_id=UUID(claims["sid"]),
                expires_at=float(claims["exp"]),
            )
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError):
            return None

    async def _key(self, key_id: object) -> jwt.PyJWK | None:
        if not isinstance(key_id, str):
            return None
        if key_id not in self._keys:
            async with self._fetching:
                if key_id not in self._keys:
                    await self._refresh_keys()
        return self._keys.get(key_id)

    async def _refresh_keys(self) -> None:
        """Fetch the keys, at most every 30 seconds once there are some; the last good ones are kept."""
        now = clock.monotonic_seconds()
        if self._keys and now - self._fetched_at < _REFETCH_SECONDS:
            return
        self._fetched_at = now  # when it fails, too: unknown keys must not make everybody wait for auth again and again
        try:
            fetched = jwt.PyJWKSet.from_json((await self._fetch_keys()).decode())
        except Exception as error:  # noqa: BLE001 – whatever keeps the keys away, the answer is the same
            log.warning("signing keys cannot be fetched", extra={"error": repr(error)})
            if not self._keys:
                raise Unavailable from None
            return
        self._keys = {key.key_id: key for key in fetched.keys if key.key_id is not None}


class Identity:
    """Tells one service who is asking: the holder of a token whose session has not ended."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._revoked: set[UUID] = set()

    async def person(self, token: str | None) -> Person | None:
        """Return who holds a token, or None when it is absent, forged, expired or revoked.

        Raises Unavailable when the signing keys were never seen and cannot be fetched.
        """
        if not token or len(token) > _TOKEN_CHARACTERS_MAX:
            return None
        person = await self._tokens.holder(token)
        return None if person is None or person.session_id in self._revoked else person

    def revoke(self, session_id: UUID) -> None:
        """Refuse a session in this process at once; the database tells the others."""
        self._revoked.add(session_id)

    async def follow_revocations(self, database: Database) -> None:
        """Keep this process's set of revoked sessions like the database's, until cancelled."""
        seen = 0
        forget_at = clock.monotonic_seconds() + _FORGET_EVERY_SECONDS
        while True:
            try:
                # A row that commits late may carry a lower number than one already seen, hence the overlap.
                for row in await database.fetch(_NEWS, max(seen - 1000, 0)):
                    self._revoked.add(row["session_id"])
                    seen = max(seen, row["noticed"])
                if clock.monotonic_seconds() >= forget_at:
                    forget_at += _FORGET_EVERY_SECONDS
                    self._revoked -= {row["session_id"] for row in await database.fetch(_FORGET)}
            except (Unavailable, *UNREACHABLE) as error:
                log.warning("revoked sessions cannot be read", extra={"error": repr(error)})
            await asyncio.sleep(_NOTICE_EVERY_SECONDS)
