"""Use cases of auth: signing up, in and out, changing an account, and the public keys of session tokens."""

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from admitone.auth import rate_limiting, store
from admitone.auth.model import (
    Account,
    ClientNetwork,
    EmailInUse,
    InvalidCredentials,
    NothingToChange,
    RateLimit,
    Session,
    TooBusyToHash,
    WrongCurrentPassword,
    ascii_spelling,
    network_of,
)
from admitone.auth.passwords import Passwords, is_outdated
from admitone.auth.resources import Resources
from admitone.auth.tokens import KeySet
from admitone.auth.views import AccountChange, CurrentUser, SignedOut, SignIn, SignUp, UserView, user_view
from admitone.events import SessionRevoked, UserCreated, UserUpdated
from admitone.kernel import ids
from admitone.kernel.database.pool import Transaction
from admitone.kernel.errors import Conflict, IdempotencyKeyReused, NotSignedIn, TooManyRequests
from admitone.kernel.http.client_address import client_address
from admitone.kernel.http.operations import CREATED, OK, Request, Response, operation
from admitone.kernel.http.sessions import SignedInUser, session_revoked

log = logging.getLogger(__name__)

_SESSION: Final = {"Set-Cookie": "The session token."}
_NO_SESSION: Final = {"Set-Cookie": "Clears the session cookie."}
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
    """Create an account and sign in.

    A repeated request with the same Idempotency-Key and the same credentials signs in to the account created first.
    """
    key = request.idempotency_key
    network = _client_network(request)
    passwords = request.resources.passwords
    with passwords.slot():
        # Counted, because a refusal reveals that an e-mail has an account.
        network_limit = RateLimit.of_network(network)
        await rate_limiting.count_attempt(request.db, [network_limit])
        account = Account(ids.new_id(), request.input.email, await passwords.hash(request.input.password))
        async with request.db.transaction() as tx:
            if await store.add_account(tx, account, key):
                tx.publish(UserCreated(id=account.id, email=account.email, version=account.version))
                response = await _start_session(request, tx, account, network, CREATED)
                await rate_limiting.record_success(tx, network_limit)
                return response
        existing = await store.find_account_by_sign_up_key(request.db, key) if key is not None else None
        if existing is None:
            raise EmailInUse
        emails = {request.input.email, ascii_spelling(request.input.email)}
        is_repeated = existing.email in emails and await passwords.verify(
            request.input.password, existing.password_hash
        )
        if not is_repeated:
            raise IdempotencyKeyReused
        async with request.db.transaction() as tx:
            response = await _start_session(request, tx, existing, network, CREATED)
            await rate_limiting.record_success(tx, network_limit)
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
    """Sign in; an unknown e-mail and a wrong password get the same response in the same time."""
    network = _client_network(request)
    passwords = request.resources.passwords
    with passwords.slot():
        accounts, is_known_network = await store.find_accounts_by_email(request.db, request.input.email, network)
        account_limit = RateLimit.of_account(request.input.email, network if is_known_network else None)
        network_limit = RateLimit.of_network(network)
        await rate_limiting.count_attempt(request.db, [account_limit, network_limit])
        account = await _account_with_password(passwords, accounts, request.input.password)
        if account is None:
            refused_id = accounts[0].id if accounts else None
            log.info("sign-in refused", extra={"account": refused_id, "network": str(network)})
            raise InvalidCredentials
        new_hash: str | None = None
        if is_outdated(account.password_hash):
            new_hash = await passwords.hash(request.input.password)
    async with request.db.transaction() as tx:
        if new_hash is not None and await store.replace_hash(tx, account, new_hash):
            account = msgspec.structs.replace(account, password_hash=new_hash)
        response = await _start_session(request, tx, account, network, OK)
        # The new cookie replaces the browser's previous one, so nobody could end that session any more.
        replaced = await _end_current_session(tx, request.maybe_user) if request.maybe_user else []
        await rate_limiting.record_success(tx, network_limit, account_limit)
    _revoke_locally(request, replaced)
    return response


@operation("POST", "/api/users/signout", returns=SignedOut, response_headers=_NO_SESSION)
async def sign_out(request: Request[None, Resources]) -> Response:
    """Sign out: the cookie is cleared, and every service refuses the session within a second."""
    if request.maybe_user is not None:
        async with request.db.transaction() as tx:
            ended = await _end_current_session(tx, request.maybe_user)
        _revoke_locally(request, ended)
    return Response(OK, SignedOut(), (_cookie(request, "", 0),))


@operation("POST", "/api/users/signout-everywhere", returns=SignedOut, response_headers=_NO_SESSION, signed_in=True)
async def sign_out_everywhere(request: Request[None, Resources]) -> Response:
    """Sign out on all devices, including this one."""
    async with request.db.transaction() as tx:
        await store.lock_account(tx, request.user.id)
        others = await store.end_other_sessions(tx, request.user.id, request.user.session_id)
        ended = [*await _publish_revoked(tx, others), *await _end_current_session(tx, request.user)]
    _revoke_locally(request, ended)
    return Response(OK, SignedOut(), (_cookie(request, "", 0),))


@operation("GET", "/api/users/currentuser", returns=CurrentUser)
async def current_user(request: Request[None, Resources]) -> Response:
    """Return the signed-in user, or null."""
    user = request.maybe_user
    return Response(OK, CurrentUser(UserView(user.id, user.email) if user else None))


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
    """Change the account's e-mail, password, or both; a new password ends all other sessions."""
    if request.input.email is None and request.input.password is None:
        raise NothingToChange
    network = _client_network(request)
    passwords = request.resources.passwords
    with passwords.slot():
        account, is_known_network = await store.find_account(request.db, request.user.id, network)
        if account is None:
            raise NotSignedIn
        account_limit = RateLimit.of_account(account.email, network if is_known_network else None)
        network_limit = RateLimit.of_network(network)
        await rate_limiting.count_attempt(request.db, [account_limit, network_limit])
        if not await passwords.verify(request.input.current_password, account.password_hash):
            log.info("account change refused", extra={"account": account.id, "network": str(network)})
            raise WrongCurrentPassword
        new_hash = await passwords.hash(request.input.password) if request.input.password is not None else None
    changed = account.changed(request.input.email, new_hash)
    ended: list[SessionRevoked] = []
    async with request.db.transaction() as tx:
        if changed is not account:
            older_email = ascii_spelling(changed.email)
            if changed.email != account.email and await store.has_another_account(tx, older_email, account.id):
                raise EmailInUse
            if not await store.change_account(tx, changed):
                raise Conflict
            tx.publish(
                UserUpdated(
                    id=changed.id,
                    email=changed.email,
                    version=changed.version,
                    password_changed=new_hash is not None,
                )
            )
        if new_hash is not None:
            others = await store.end_other_sessions(tx, account.id, request.user.session_id)
            ended = await _publish_revoked(tx, others)
        await rate_limiting.record_success(tx, network_limit, account_limit)
        now = tx.now
    _revoke_locally(request, ended)
    if changed.email == request.user.email:
        return Response(OK, user_view(changed))
    # The token contains the e-mail, so the session gets a new token; it expires when the old one does.
    user = msgspec.structs.replace(request.user, email=changed.email)
    seconds_left = max(int(user.expires_at - now.timestamp()), 0)
    return Response(OK, user_view(changed), (_cookie(request, request.resources.keys.sign(user, now), seconds_left),))


@operation("GET", "/api/users/jwks", returns=KeySet)
async def public_keys(request: Request[None, Resources]) -> Response:
    """Return the public keys that verify session tokens, as a JSON Web Key Set."""
    return Response(OK, request.resources.keys.published, ((b"cache-control", b"public, max-age=60"),))


async def _account_with_password(passwords: Passwords, accounts: Sequence[Account], password: str) -> Account | None:
    """Return the account whose password this is; without any account, it takes as long to find none."""
    for account in accounts:
        if await passwords.verify(password, account.password_hash):
            return account
    if not accounts:
        await passwords.verify(password, None)
    return None


async def _start_session(
    request: Request[Any, Resources], tx: Transaction, account: Account, network: ClientNetwork, status: int
) -> Response:
    """Start a session, return the response with its cookie; raises InvalidCredentials if the password has changed."""
    seconds = request.resources.session_seconds
    session = Session(ids.new_id(), account.id, tx.now + timedelta(seconds=seconds))
    if not await store.start_session(tx, session, account.password_hash, network):
        raise InvalidCredentials
    user = SignedInUser(account.id, account.email, session.id, session.expires_at.timestamp())
    token = request.resources.keys.sign(user, tx.now)
    log.info("session started", extra={"account": account.id, "session": session.id, "network": str(network)})
    return Response(status, user_view(account), (_cookie(request, token, seconds),))


async def _end_current_session(tx: Transaction, user: SignedInUser) -> list[SessionRevoked]:
    """End the session the request came with; its token has all that is needed, even if the session's row is gone."""
    await store.end_session(tx, user.session_id)
    expires_at = datetime.fromtimestamp(user.expires_at, UTC)
    return await _publish_revoked(tx, [Session(user.session_id, user.id, expires_at)])


async def _publish_revoked(tx: Transaction, sessions: Iterable[Session]) -> list[SessionRevoked]:
    """Revoke sessions in all services, and in other processes of this one without the bus; return the events."""
    ended = [
        SessionRevoked(session_id=each.id, user_id=each.account_id, expires_at=each.expires_at) for each in sessions
    ]
    for event in ended:
        tx.publish(event)
        await session_revoked(tx, event)
        log.info("session ended", extra={"account": event.user_id, "session": event.session_id})
    return ended


def _revoke_locally(request: Request[Any, Resources], ended: Iterable[SessionRevoked]) -> None:
    """Refuse sessions in this process immediately; called after the commit."""
    for event in ended:
        request.service.sessions.revoke(event.session_id, event.expires_at.timestamp())


def _cookie(request: Request[Any, Resources], token: str, seconds: int) -> tuple[bytes, bytes]:
    """Return the header that sets the session cookie; an empty token clears it."""
    parts = [f"{request.service.sessions.cookie}={token}", "Path=/", f"Max-Age={seconds}", "HttpOnly", "SameSite=Lax"]
    if not token:
        parts.append("Expires=Thu, 01 Jan 1970 00:00:00 GMT")
    if request.service.settings.is_https:
        parts.append("Secure")
    return (b"set-cookie", "; ".join(parts).encode())


def _client_network(request: Request[Any, Resources]) -> ClientNetwork:
    return network_of(client_address(request.http.scope, trust_proxy=request.service.settings.trust_proxy))
