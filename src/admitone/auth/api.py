"""What people may ask auth, and the public keys that other services ask for."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from admitone.auth import delays, store
from admitone.auth.model import (
    PASSWORD_CHARACTERS_MAX,
    PASSWORD_CHARACTERS_MIN,
    Account,
    EmailInUse,
    Guess,
    InvalidCredentials,
    NothingToChange,
    Place,
    Session,
    TooBusyToHash,
    WrongCurrentPassword,
    read_email,
    read_new_password,
    read_password,
)
from admitone.auth.passwords import is_outdated
from admitone.auth.resources import Resources
from admitone.auth.tokens import KeySet
from admitone.events import SessionRevoked, UserCreated, UserUpdated
from admitone.kernel import ids
from admitone.kernel.database.pool import Transaction
from admitone.kernel.errors import Conflict, IdempotencyKeyReused, NotSignedIn, TooManyRequests
from admitone.kernel.http.operations import CREATED, OK, Request, Response, operation
from admitone.kernel.http.parsing import Rule
from admitone.kernel.http.sessions import COOKIE, SignedInUser, session_revoked

log = logging.getLogger(__name__)

_EmailText = Annotated[str, msgspec.Meta(max_length=254, extra_json_schema={"format": "email"})]
_PasswordText = Annotated[str, msgspec.Meta(min_length=PASSWORD_CHARACTERS_MIN, max_length=PASSWORD_CHARACTERS_MAX)]
_KnownPasswordText = Annotated[str, msgspec.Meta(min_length=1)]
_EMAIL: Final = Rule("Email must be valid", read_email)
_NEW_PASSWORD: Final = Rule(
    f"Password must be between {PASSWORD_CHARACTERS_MIN} and {PASSWORD_CHARACTERS_MAX} characters", read_new_password
)


def _given(rule: Rule) -> Rule:
    """Return the same rule for a field that may be null, which is the same as leaving it out."""
    return Rule(rule.message, lambda value: None if value is None else rule.read(value))


class SignUp(msgspec.Struct, frozen=True):
    """Who wants an account."""

    email: Annotated[_EmailText, _EMAIL]
    password: Annotated[_PasswordText, _NEW_PASSWORD]


class SignIn(msgspec.Struct, frozen=True):
    """Who says to be whom."""

    email: Annotated[_EmailText, _EMAIL]
    password: Annotated[_KnownPasswordText, Rule("You must supply a password", read_password)]


class AccountChange(msgspec.Struct, frozen=True, rename="camel"):
    """What somebody changes about their account; the present password shows that it is them."""

    current_password: Annotated[_KnownPasswordText, Rule("You must supply your current password", read_password)]
    email: Annotated[_EmailText | None, _given(_EMAIL)] = None
    password: Annotated[_PasswordText | None, _given(_NEW_PASSWORD)] = None


class UserView(msgspec.Struct, frozen=True):
    """A person, as others see them."""

    id: UUID
    email: str


class CurrentUser(msgspec.Struct, frozen=True, rename="camel"):
    """Who is signed in, if anybody is."""

    current_user: UserView | None


class SignedOut(msgspec.Struct, frozen=True):
    """Nothing more to say."""


_SESSION: Final = {"Set-Cookie": "The session."}
_NO_SESSION: Final = {"Set-Cookie": "Clears the session's cookie."}
_EXAMPLE: Final = {
    "request": {"email": "alice@example.com", "password": "correct horse battery staple"},
    "response": {"id": "01980a7e-5a4c-7c31-9f0e-3b1d2c4f5a66", "email": "alice@example.com"},
}


@operation(
    "POST",
    "/api/users/signup",
    status=CREATED,
    body=SignUp,
    returns=UserView,
    raises=(EmailInUse, TooManyRequests, TooBusyToHash),
    idempotent=True,
    response_headers=_SESSION,
    examples=_EXAMPLE,
)
async def sign_up(request: Request[SignUp, Resources]) -> Response:
    """Make an account and sign in.

    A repeat with the same Idempotency-Key and the same credentials signs in to the account made the first time.
    """
    key = request.idempotency_key
    place = _place(request)
    passwords = request.resources.passwords
    with passwords.turn():
        # Counted, because a refusal tells who has an account here.
        from_place = Guess.from_place(place)
        await delays.count_try(request.db, [from_place])
        account = Account(ids.new_id(), request.input.email, await passwords.hash(request.input.password))
        async with request.db.transaction() as tx:
            if await store.add_account(tx, account, key):
                tx.publish(UserCreated(id=account.id, email=account.email, version=account.version))
                response = await _begin_session(request, tx, account, place, CREATED)
                await delays.take_back(tx, None, from_place)
                return response
        made_before = await store.find_by_sign_up_key(request.db, key) if key is not None else None
        if made_before is None:
            raise EmailInUse
        is_the_same = made_before.email == request.input.email and await passwords.is_right(
            request.input.password, made_before.password_hash
        )
        if not is_the_same:
            raise IdempotencyKeyReused
        async with request.db.transaction() as tx:
            response = await _begin_session(request, tx, made_before, place, CREATED)
            await delays.take_back(tx, None, from_place)
            return response


@operation(
    "POST",
    "/api/users/signin",
    body=SignIn,
    returns=UserView,
    raises=(InvalidCredentials, TooManyRequests, TooBusyToHash),
    response_headers=_SESSION,
    examples=_EXAMPLE,
)
async def sign_in(request: Request[SignIn, Resources]) -> Response:
    """Sign in; an unknown e-mail and a wrong password get the same response after the same work."""
    place = _place(request)
    passwords = request.resources.passwords
    with passwords.turn():
        account, is_familiar = await store.find_by_email(request.db, request.input.email, place)
        at_account = Guess.at_account(request.input.email, place if is_familiar else None)
        from_place = Guess.from_place(place)
        await delays.count_try(request.db, [at_account, from_place])
        is_right = await passwords.is_right(request.input.password, account.password_hash if account else None)
        if account is None or not is_right:
            log.info("signing in refused", extra={"account": account.id if account else None, "place": str(place)})
            raise InvalidCredentials
        fresh_hash: str | None = None
        if is_outdated(account.password_hash):
            fresh_hash = await passwords.hash(request.input.password)
    async with request.db.transaction() as tx:
        if fresh_hash is not None and await store.rehash(tx, account, fresh_hash):
            account = Account(account.id, account.email, fresh_hash, account.version)
        response = await _begin_session(request, tx, account, place, OK)
        # Another session of this browser would be out of its owner's reach from now on.
        replaced = await _end_own_session(tx, request.maybe_user) if request.maybe_user else []
        await delays.take_back(tx, at_account, from_place)
    _refuse_from_now_on(request, replaced)
    return response


@operation("POST", "/api/users/signout", returns=SignedOut, response_headers=_NO_SESSION)
async def sign_out(request: Request[None, Resources]) -> Response:
    """Sign out: the session ends everywhere within a second, and its cookie is cleared."""
    if request.maybe_user is not None:
        async with request.db.transaction() as tx:
            ended = await _end_own_session(tx, request.maybe_user)
        _refuse_from_now_on(request, ended)
    return Response(OK, SignedOut(), (_cookie(request, "", 0),))


@operation("POST", "/api/users/signout-everywhere", returns=SignedOut, response_headers=_NO_SESSION, signed_in=True)
async def sign_out_everywhere(request: Request[None, Resources]) -> Response:
    """Sign out on every device, this one included."""
    async with request.db.transaction() as tx:
        await store.hold_account(tx, request.user.id)
        others = await store.end_other_sessions(tx, request.user.id, request.user.session_id)
        ended = [*await _tell_ended(tx, others), *await _end_own_session(tx, request.user)]
    _refuse_from_now_on(request, ended)
    return Response(OK, SignedOut(), (_cookie(request, "", 0),))


@operation("GET", "/api/users/currentuser", returns=CurrentUser)
async def current_user(request: Request[None, Resources]) -> Response:
    """Tell who is signed in, or null."""
    return Response(
        OK, CurrentUser(UserView(request.maybe_user.id, request.maybe_user.email) if request.maybe_user else None)
    )


@operation(
    "PUT",
    "/api/users/currentuser",
    body=AccountChange,
    returns=UserView,
    raises=(EmailInUse, WrongCurrentPassword, NothingToChange, Conflict, TooManyRequests, TooBusyToHash),
    signed_in=True,
    examples={
        "request": {"currentPassword": "correct horse battery staple", "email": "alice@example.org"},
        "response": {"id": "01980a7e-5a4c-7c31-9f0e-3b1d2c4f5a66", "email": "alice@example.org"},
    },
)
async def change_account(request: Request[AccountChange, Resources]) -> Response:
    """Change one's e-mail, password, or both; a new password ends all other sessions."""
    if request.input.email is None and request.input.password is None:
        raise NothingToChange
    place = _place(request)
    passwords = request.resources.passwords
    with passwords.turn():
        account, is_familiar = await store.find_by_id(request.db, request.user.id, place)
        if account is None:
            raise NotSignedIn
        at_account = Guess.at_account(account.email, place if is_familiar else None)
        from_place = Guess.from_place(place)
        await delays.count_try(request.db, [at_account, from_place])
        if not await passwords.is_right(request.input.current_password, account.password_hash):
            log.info("changing the account refused", extra={"account": account.id, "place": str(place)})
            raise WrongCurrentPassword
        fresh_hash = await passwords.hash(request.input.password) if request.input.password is not None else None
    changed = account.changed(request.input.email, fresh_hash)
    ended: list[UUID] = []
    async with request.db.transaction() as tx:
        if changed is not account:
            if not await store.change_account(tx, changed):
                raise Conflict
            tx.publish(UserUpdated(id=changed.id, email=changed.email, version=changed.version))
        if fresh_hash is not None:
            others = await store.end_other_sessions(tx, account.id, request.user.session_id)
            ended = await _tell_ended(tx, others)
        await delays.take_back(tx, at_account, from_place)
        now = tx.now
    _refuse_from_now_on(request, ended)
    answered = UserView(changed.id, changed.email)
    if changed.email == request.user.email:
        return Response(OK, answered)
    # The token carries the e-mail, so this session gets another one; it lasts no longer than the first.
    person = SignedInUser(changed.id, changed.email, request.user.session_id, request.user.expires_at)
    seconds_left = max(int(request.user.expires_at - now.timestamp()), 0)
    return Response(OK, answered, (_cookie(request, request.resources.keys.sign(person, now), seconds_left),))


@operation("GET", "/api/users/jwks", returns=KeySet)
async def public_keys(request: Request[None, Resources]) -> Response:
    """The public keys with which anybody can verify a session's token."""
    return Response(OK, request.resources.keys.published, ((b"cache-control", b"public, max-age=60"),))


async def _begin_session(
    request: Request[Any, Resources], tx: Transaction, account: Account, place: Place, status: int
) -> Response:
    """Begin a session and return the response that carries it; raises InvalidCredentials for a password of yesterday."""
    seconds = request.resources.session_seconds
    session = Session(ids.new_id(), account.id, tx.now + timedelta(seconds=seconds))
    if not await store.begin_session(tx, session, account.password_hash, place):
        raise InvalidCredentials
    person = SignedInUser(account.id, account.email, session.id, session.expires_at.timestamp())
    token = request.resources.keys.sign(person, tx.now)
    log.info("session begins", extra={"account": account.id, "session": session.id, "place": str(place)})
    return Response(status, UserView(account.id, account.email), (_cookie(request, token, seconds),))


async def _end_own_session(tx: Transaction, caller: SignedInUser) -> list[UUID]:
    """End the session the request came with, whatever the database remembers of it: its token says enough."""
    await store.end_session(tx, caller.session_id)
    expires_at = datetime.fromtimestamp(caller.expires_at, UTC)
    return await _tell_ended(tx, [Session(caller.session_id, caller.id, expires_at)])


async def _tell_ended(tx: Transaction, sessions: Iterable[Session]) -> list[UUID]:
    """Tell every service, and this one's other processes without the bus; return the sessions' ids."""
    ended = [
        SessionRevoked(session_id=each.id, user_id=each.account_id, expires_at=each.expires_at) for each in sessions
    ]
    for event in ended:
        tx.publish(event)
        await session_revoked(tx, event)
        log.info("session ends", extra={"account": event.user_id, "session": event.session_id})
    return [event.session_id for event in ended]


def _refuse_from_now_on(request: Request[Any, Resources], ended: Iterable[UUID]) -> None:
    """Refuse these sessions in this process at once; called after the commit."""
    for session_id in ended:
        request.service.sessions.revoke(session_id)


def _cookie(request: Request[Any, Resources], token: str, seconds: int) -> tuple[bytes, bytes]:
    """Return the header that sets the session's cookie; an empty token clears it."""
    parts = [f"{COOKIE}={token}", "Path=/", f"Max-Age={seconds}", "HttpOnly", "SameSite=Lax"]
    if not token:
        parts.append("Expires=Thu, 01 Jan 1970 00:00:00 GMT")
    if request.settings.is_https:
        parts.append("Secure")
    return (b"set-cookie", "; ".join(parts).encode())


def _place(request: Request[Any, Resources]) -> Place:
    return delays.place_of(request.http, trust_proxy=request.settings.trust_proxy)
