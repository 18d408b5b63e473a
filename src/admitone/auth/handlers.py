"""The snapshots of auth, and what it rebuilds from its events in a database that was restored to an earlier time."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from admitone.auth import store
from admitone.auth.model import LOST_HASH, Account, EmailInUse
from admitone.events import SessionRevoked, UserCreated, UserUpdated
from admitone.kernel.database.pool import Transaction
from admitone.kernel.messaging.recovery import CannotRebuild, is_next_version


async def account_snapshots(tx: Transaction, account_ids: Sequence[UUID]) -> list[UserUpdated]:
    return [
        UserUpdated(id=each.id, email=each.email, version=each.version, snapshot=True)
        for each in await store.accounts(tx, account_ids)
    ]


async def session_snapshots(tx: Transaction, session_ids: Sequence[UUID]) -> list[SessionRevoked]:
    return [
        SessionRevoked(session_id=each.id, user_id=each.account_id, expires_at=each.expires_at)
        for each in await store.ended_sessions(tx, session_ids)
    ]


async def rebuild_account(tx: Transaction, event: UserCreated | UserUpdated, recorded_at: datetime) -> None:
    """Rebuild an account; a password that was chosen since is lost, because events do not have it.

    The password before it must not be valid again: it may have been changed because somebody else knew it.
    """
    account = next(iter(await store.accounts(tx, [event.id])), None)
    if not is_next_version(event, -1 if account is None else account.version):
        return
    if account is None:
        await store.rebuild_account(tx, Account(event.id, event.email, LOST_HASH, event.version), recorded_at)
        return
    # An earlier release did not say what changed.
    has_new_password = event.email == account.email or (isinstance(event, UserUpdated) and event.password_changed)
    password_hash = LOST_HASH if has_new_password else account.password_hash
    try:
        await store.change_account(tx, Account(account.id, event.email, password_hash, event.version))
    except EmailInUse:
        raise CannotRebuild("the e-mail address is in use") from None


async def rebuild_ended_session(tx: Transaction, event: SessionRevoked, _recorded_at: datetime) -> None:
    await store.end_session(tx, event.session_id)
