"""Sessions: every service verifies session tokens itself, with the public keys of the service that signs them.

A token is a JWT (RFC 7519) signed with EdDSA (RFC 8037); algorithm, issuer, audience and type are pinned. A session
that ends before its token expires is refused as soon as its revocation reaches this service.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Protocol
from uuid import UUID

import jwt
import msgspec
from starlette.datastructures import Headers

from admitone.kernel import clock
from admitone.kernel.database.pool import Database, Transaction
from admitone.kernel.errors import Unavailable

log = logging.getLogger(__name__)

ISSUER: Final = "admitone"
AUDIENCE: Final = "admitone"
TOKEN_TYPE: Final = "at+jwt"  # noqa: S105 – RFC 9068's name for the type of token
ALGORITHM: Final = "EdDSA"
# Requests with unknown keys fetch them no more often than this.
_REFETCH_SECONDS: Final = 30.0
# A key that is withdrawn signs nobody in for longer than this; the keys are published with the same max-age.
_KEYS_SECONDS_MAX: Final = 60.0
_CACHED_TOKENS_MAX: Final = 50_000
_TOKEN_CHARACTERS_MAX: Final = 2048
_TOKEN: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
# Other applications on the same host, or on hosts above and below it, may have set cookies of the same name.
_TOKENS_MAX: Final = 20
_POLL_SECONDS: Final = 0.5
_PRUNE_EVERY_SECONDS: Final = 3600.0

_REVOKE: Final = """
INSERT INTO revoked_session (session_id, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING
"""
_REVOKED_SINCE: Final = """
SELECT session_id, expires_at, number FROM revoked_session WHERE number > $1 ORDER BY number
"""
_DELETE_EXPIRED: Final = "DELETE FROM revoked_session WHERE expires_at < instant()"


def cookie_name(*, is_https: bool) -> str:
    """Return the name of the session cookie.

    Browsers accept `__Host-` from this host and https only, so that no other host can set it. Source: RFC 6265bis.
    """
    return "__Host-session" if is_https else "session"


def session_tokens(headers: Headers, cookie: str) -> list[str]:
    """Return what may be a session token in the cookies of this name, without repetition.

    Everything else is left out: it cannot be valid, and must not get into the headers of another request.
    """
    pairs = [pair.partition("=") for line in headers.getlist("cookie") for pair in line.split(";")]
    values = dict.fromkeys(value.strip() for name, _, value in pairs if name.strip() == cookie)
    return [each for each in values if len(each) <= _TOKEN_CHARACTERS_MAX and _TOKEN.fullmatch(each)][:_TOKENS_MAX]


class SessionRevocation(Protocol):
    """What the event that ends a session before its token expires carries."""

    @property
    def session_id(self) -> UUID: ...
    @property
    def expires_at(self) -> datetime: ...


@dataclass(frozen=True)
class SessionAuthority:
    """The service that signs session tokens, and the path where it publishes its public keys (a JWK set)."""

    service: str
    keys_path: str


class SignedInUser(msgspec.Struct, frozen=True):
    """The user a valid session token was issued to; `expires_at` is in seconds since the epoch."""

    id: UUID
    email: str
    session_id: UUID
    expires_at: float


async def session_revoked(tx: Transaction, event: SessionRevocation) -> None:
    """Refuse a session from now on; every service with a database subscribes to this."""
    await tx.execute(_REVOKE, event.session_id, event.expires_at)


class _Verified(NamedTuple):
    """A verified token's user, and the key that signed it."""

    key_id: str
    user: SignedInUser


class TokenVerifier:
    """Verifies session tokens; one instance serves every service of a process.

    A token is valid while its key is published. The keys are fetched again every minute; while they cannot be, the
    last ones count.
    """

    def __init__(self, fetch_keys: Callable[[], Awaitable[bytes]]) -> None:
        self._fetch_keys = fetch_keys
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._verified: dict[str, _Verified] = {}

    async def user(self, token: str) -> SignedInUser | None:
        """Return whom a token was issued to, or None if it is forged or expired.

        Raises Unavailable if the public keys were never fetched and cannot be.
        """
        is_stale = clock.monotonic_seconds() - self._fetched_at >= _KEYS_SECONDS_MAX
        if self._keys and is_stale and not self._fetching.locked():
            async with self._fetching:
                await self._refresh_keys()
        verified = self._verified.get(token)
        if verified is None:
            verified = await self._verify(token)
            if verified is None:
                return None
            if len(self._verified) >= _CACHED_TOKENS_MAX:
                self._verified.clear()
            self._verified[token] = verified
        if verified.key_id not in self._keys or verified.user.expires_at <= clock.now().timestamp():
            self._verified.pop(token, None)
            return None
        return verified.user

    async def _verify(self, token: str) -> _Verified | None:
        try:
            header = jwt.get_unverified_header(token)
            if header.get("typ") != TOKEN_TYPE or header.get("alg") != ALGORITHM:
                return None
            key = await self._key(header.get("kid"))
            if key is None:
                return None
            # Expiry is compared by the caller with this process's clock, so that a simulation can replace the clock.
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
            user = SignedInUser(
                id=UUID(claims["sub"]),
                email=str(claims["email"]),
                session_id=UUID(claims["sid"]),
                expires_at=float(claims["exp"]),
            )
            return _Verified(header["kid"], user)
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
        """Fetch the keys, at most every 30 seconds once there are some; a failure keeps the last good ones."""
        now = clock.monotonic_seconds()
        if self._keys and now - self._fetched_at < _REFETCH_SECONDS:
            return
        self._fetched_at = now  # also on failure: requests with unknown keys must not all wait for the authority
        try:
            fetched = jwt.PyJWKSet.from_json((await self._fetch_keys()).decode())
        except Exception as error:  # noqa: BLE001 – the response is the same for every cause
            log.warning("signing keys cannot be fetched", extra={"error": repr(error)})
            if not self._keys:
                raise Unavailable from None
            return
        self._keys = {key.key_id: key for key in fetched.keys if key.key_id is not None}


class Sessions:
    """The sessions one service accepts: those with a valid token that are not revoked."""

    def __init__(self, verifier: TokenVerifier, cookie: str = cookie_name(is_https=False)) -> None:
        self._verifier = verifier
        self.cookie = cookie
        # When the token of each revoked session expires, in seconds since the epoch.
        self._revoked: dict[UUID, float] = {}
        self._prune_at = clock.monotonic_seconds() + _PRUNE_EVERY_SECONDS
        self._last_number = 0

    async def user_of(self, headers: Headers) -> SignedInUser | None:
        """Return the user of the first valid token in the session cookies; raises Unavailable as `user`."""
        for token in session_tokens(headers, self.cookie):
            if (user := await self.user(token)) is not None:
                return user
        return None

    async def user(self, token: str | None) -> SignedInUser | None:
        """Return whom a token was issued to, or None if it is absent, forged, expired or revoked.

        Raises Unavailable if the public keys were never fetched and cannot be.
        """
        if not token or len(token) > _TOKEN_CHARACTERS_MAX:
            return None
        user = await self._verifier.user(token)
        return None if user is None or user.session_id in self._revoked else user

    def revoke(self, session_id: UUID, expires_at: float) -> None:
        """Refuse a session in this process at once; other processes read it from the database.

        Its token expires at `expires_at`, in seconds since the epoch, and is refused for that from then on.
        """
        self._revoked[session_id] = expires_at
        self._forget_expired()

    def _forget_expired(self) -> None:
        """Forget the revocations that no token needs any more, once an hour.

        Each process does so by its own clock, as it accepts tokens; an hour later, in case that clock is set back.
        """
        if clock.monotonic_seconds() >= self._prune_at:
            self._prune_at = clock.monotonic_seconds() + _PRUNE_EVERY_SECONDS
            expired_at = clock.now().timestamp() - _PRUNE_EVERY_SECONDS
            self._revoked = {each: until for each, until in self._revoked.items() if until > expired_at}

    async def read_revocations(self, database: Database) -> None:
        """Read the revocations recorded since the last reading; before the first, none is known."""
        # A row that commits late may have a lower number than one already read, hence the overlap.
        for row in await database.fetch(_REVOKED_SINCE, max(self._last_number - 1000, 0)):
            self._revoked[row["session_id"]] = row["expires_at"].timestamp()
            self._last_number = max(self._last_number, row["number"])
        self._forget_expired()

    async def follow_revocations(self, database: Database) -> None:
        """Read the revocations of other processes as they are recorded, and delete old ones, until cancelled."""
        delete_at = clock.monotonic_seconds() + _PRUNE_EVERY_SECONDS
        while True:
            await self.read_revocations(database)
            if clock.monotonic_seconds() >= delete_at:
                delete_at += _PRUNE_EVERY_SECONDS
                await database.execute(_DELETE_EXPIRED)
            await asyncio.sleep(_POLL_SECONDS)
