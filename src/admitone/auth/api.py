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
from admitone.auth.own import Own
from admitone.auth.passwords import is_outdated
from admitone.auth.tokens import KeySet
from admitone.events import SessionRevoked, UserCreated, UserUpdated
from admitone.kernel import ids
from admitone.kernel.bodies import Rule
from admitone.kernel.database import Transaction
from admitone.kernel.http import CREATED, OK, Answer, Call, operation
from admitone.kernel.identity import COOKIE, Person, session_revoked
from admitone.kernel.refusals import Conflict, KeyReused, NotSignedIn, TooManyTries

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


class User(msgspec.Struct, frozen=True):
    """A person, as others see them."""

    id: UUID
    email: str


class CurrentUser(msgspec.Struct, frozen=True, rename="camel"):
    """Who is signed in, if anybody is."""

    current_user: User | None


class SignedOut(msgspec.Struct, frozen=True):
    """Nothing more to say."""


_SESSION: Final = {"Set-Cookie": "The session."}
_NO_SESSION: Final = {"Set-Cookie": "Clears the session's cookie."}
_EXAMPLE: Final = {
    "request": {"email": "alice@example.com", "password": "correct horse battery staple"},
    "answer": {"id": "01980a7e-5a4c-7c31-9f0e-3b1d2c4f5a66", "email": "alice@example.com"},
}


@operation(
    "POST",
    "/api/users/signup",
    status=CREATED,
    body=SignUp,
    answers=User,
    refuses=(EmailInUse, TooManyTries, TooBusyToHash),
    idempotent=True,
    sends=_SESSION,
    examples=_EXAMPLE,
)
async def sign_up(call: Call[SignUp]) -> Answer:
    """Make an account and sign in.

    A repeat with the same Idempotency-Key and the same credentials signs in to the account made the first time.
    """
    key = call.idempotency_key
    place = _place(call)
    passwords = _own(call).passwords
    with passwords.turn():
        # Counted, because a refusal tells who has an account here.
        from_place = Guess.from_place(place)
        await delays.count_try(call.db, [from_place])
        account = Account(ids.new_id(), call.body.email, await passwords.hash(call.body.password))
        async with call.db.transaction() as tx:
            if await store.add_account(tx, account, key):
                tx.publish(UserCreated(id=account.id, email=account.email, version=account.version))
                answer = await _begin_session(call, tx, account, place, CREATED)
                await delays.take_back(tx, None, from_place)
                return answer
        made_before = await store.find_by_sign_up_key(call.db, key) if key is not None else None
        if made_before is None:
            raise EmailInUse
        is_the_same = made_before.email == call.body.email and await passwords.is_right(
            call.body.password, made_before.password_hash
        )
        if not is_the_same:
            raise KeyReused
        async with call.db.transaction() as tx:
            answer = await _begin_session(call, tx, made_before, place, CREATED)
            await delays.take_back(tx, None, from_place)
            return answer


@operation(
    "POST",
    "/api/users/signin",
    body=SignIn,
    answers=User,
    refuses=(InvalidCredentials, TooManyTries, TooBusyToHash),
    sends=_SESSION,
    examples=_EXAMPLE,
)
async def sign_in(call: Call[SignIn]) -> Answer:
    """Sign in; an unknown e-mail and a wrong password get the same answer after the same work."""
    place = _place(call)
    passwords = _own(call).passwords
    with passwords.turn():
        account, is_familiar = await store.find_by_email(call.db, call.body.email, place)
        at_account = Guess.at_account(call.body.email, place if is_familiar else None)
        from_place = Guess.from_place(place)
        await delays.count_try(call.db, [at_account, from_place])
        is_right = await passwords.is_right(call.body.password, account.password_hash if account else None)
        if account is None or not is_right:
            log.info("signing in refused", extra={"account": account.id if account else None, "place": str(place)})
            raise InvalidCredentials
        fresh_hash: str | None = None
        if is_outdated(account.password_hash):
            fresh_hash = await passwords.hash(call.body.password)
    async with call.db.transaction() as tx:
        if fresh_hash is not None and await store.rehash(tx, account, fresh_hash):
            account = Account(account.id, account.email, fresh_hash, account.version)
        answer = await _begin_session(call, tx, account, place, OK)
        # Another session of this browser would be out of its owner's reach from now on.
        replaced = await _end_own_session(tx, call.caller) if call.caller else []
        await delays.take_back(tx, at_account, from_place)
    _refuse_from_now_on(call, replaced)
    return answer


@operation("POST", "/api/users/signout", answers=SignedOut, sends=_NO_SESSION)
async def sign_out(call: Call[None]) -> Answer:
    """Sign out: the session ends everywhere within a second, and its cookie is cleared."""
    if call.caller is not None:
        async with call.db.transaction() as tx:
            ended = await _end_own_session(tx, call.caller)
        _refuse_from_now_on(call, ended)
    return Answer(OK, SignedOut(), (_cookie(call, "", 0),))


@operation("POST", "/api/users/signout-everywhere", answers=SignedOut, sends=_NO_SESSION, signed_in=True)
async def sign_out_everywhere(call: Call[None]) -> Answer:
    """Sign out on every device, this one included."""
    async with call.db.transaction() as tx:
        await store.hold_account(tx, call.person.id)
        others = await store.end_other_sessions(tx, call.person.id, call.person.session_id)
        ended = [*await _tell_ended(tx, others), *await _end_own_session(tx, call.person)]
    _refuse_from_now_on(call, ended)
    return Answer(OK, SignedOut(), (_cookie(call, "", 0),))


@operation("GET", "/api/users/currentuser", answers=CurrentUser)
async def current_user(call: Call[None]) -> Answer:
    """Tell who is signed in, or null."""
    return Answer(OK, CurrentUser(User(call.caller.id, call.caller.email) if call.caller else None))


@operation(
    "PUT",
    "/api/users/currentuser",
    body=AccountChange,
    answers=User,
    refuses=(EmailInUse, WrongCurrentPassword, NothingToChange, Conflict, TooManyTries, TooBusyToHash),
    signed_in=True,
    examples={
        "request": {"currentPassword": "correct horse battery staple", "email": "alice@example.org"},
        "answer": {"id": "01980a7e-5a4c-7c31-9f0e-3b1d2c4f5a66", "email": "alice@example.org"},
    },
)
async def change_account(call: Call[AccountChange]) -> Answer:
    """Change one's e-mail, password, or both; a new password ends all other sessions."""
    if call.body.email is None and call.body.password is None:
        raise NothingToChange
    place = _place(call)
    passwords = _own(call).passwords
    with passwords.turn():
        account, is_familiar = await store.find_by_id(call.db, call.person.id, place)
        if account is None:
            raise NotSignedIn
        at_account = Guess.at_account(account.email, place if is_familiar else None)
        from_place = Guess.from_place(place)
        await delays.count_try(call.db, [at_account, from_place])
        if not await passwords.is_right(call.body.current_password, account.password_hash):
            log.info("changing the account refused", extra={"account": account.id, "place": str(place)})
            raise WrongCurrentPassword
        fresh_hash = await passwords.hash(call.body.password) if call.body.password is not None else None
    changed = account.changed(call.body.email, fresh_hash)
    ended: list[UUID] = []
    async with call.db.transaction() as tx:
        if changed is not account:
            if not await store.change_account(tx, changed):
                raise Conflict
            tx.publish(UserUpdated(id=changed.id, email=changed.email, version=changed.version))
        if fresh_hash is not None:
            others = await store.end_other_sessions(tx, account.id, call.person.session_id)
            ended = await _tell_ended(tx, others)
        await delays.take_back(tx, at_account, from_place)
        now = tx.now
    _refuse_from_now_on(call, ended)
    answered = User(changed.id, changed.email)
    if changed.email == call.person.email:
        return Answer(OK, answered)
    # The token carries the e-mail, so this session gets another one; it lasts no longer than the first.
    person = Person(changed.id, changed.email, call.person.session_id, call.person.expires_at)
    seconds_left = max(int(call.person.expires_at - now.timestamp()), 0)
    return Answer(OK, answered, (_cookie(call, _own(call).keys.sign(person, now), seconds_left),))


@operation("GET", "/api/users/jwks", answers=KeySet)
async def public_keys(call: Call[None]) -> Answer:
    """The public keys with which anybody can verify a session's token."""
    return Answer(OK, _own(call).keys.published, ((b"cache-control", b"public, max-age=60"),))


async def _begin_session(call: Call[Any], tx: Transaction, account: Account, place: Place, status: int) -> Answer:
    """Begin a session and return the answer that carries it; raises InvalidCredentials for a password of yesterday."""
    seconds = call.settings.session_seconds
    session = Session(ids.new_id(), account.id, tx.now + timedelta(seconds=seconds))
    if not await store.begin_session(tx, session, account.password_hash, place):
        raise InvalidCredentials
    person = Person(account.id, account.email, session.id, session.expires_at.timestamp())
    token = _own(call).keys.sign(person, tx.now)
    log.info("session begins", extra={"account": account.id, "session": session.id, "place": str(place)})
    return Answer(status, User(account.id, account.email), (_cookie(call, token, seconds),))


async def _end_own_session(tx: Transaction, caller: Person) -> list[UUID]:
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


def _refuse_from_now_on(call: Call[Any], ended: Iterable[UUID]) -> None:
    """Refuse these sessions in this process at once; called after the commit."""
    for session_id in ended:
        call.service.identity.revoke(session_id)


def _cookie(call: Call[Any], token: str, seconds: int) -> tuple[bytes, bytes]:
    """Return the header that sets the session's cookie; an empty token clears it."""
    parts = [f"{COOKIE}={token}", "Path=/", f"Max-Age={seconds}", "HttpOnly", "SameSite=Lax"]
    if not token:
        parts.append("Expires=Thu, 01 Jan 1970 00:00:00 GMT")
    if call.settings.is_https:
        parts.append("Secure")
    return (b"set-cookie", "; ".join(parts).encode())


def _place(call: Call[Any]) -> Place:
    return delays.place_of(call.request, trust_proxy=call.settings.trust_proxy)


def _own(call: Call[Any]) -> Own:
    own = call.service.own
    assert isinstance(own, Own)
    return own
