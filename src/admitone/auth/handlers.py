"""The snapshots of auth: accounts as they are, and sessions that were ended and have not expired."""

from collections.abc import Sequence
from uuid import UUID

from admitone.auth import store
from admitone.events import SessionRevoked, UserUpdated
from admitone.kernel.database.pool import Transaction


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
