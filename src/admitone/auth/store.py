"""auth's SQL: one function per statement, named by what it is for."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from admitone.auth.model import Account, EmailInUse, Place, Session, Tries
from admitone.kernel.database.pool import Row, Statements, Transaction, affected_rows, columns

_ADD_ACCOUNT: Final = """
INSERT INTO account (id, email, password_hash, version, sign_up_key) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
"""
_FIND_BY_EMAIL: Final = """
SELECT id, email, password_hash, version,
    EXISTS (SELECT 1 FROM session WHERE account_id = account.id AND place = $2) AS is_familiar
FROM account WHERE email = $1
"""
_FIND_BY_ID: Final = """
SELECT id, email, password_hash, version,
    EXISTS (SELECT 1 FROM session WHERE account_id = account.id AND place = $2) AS is_familiar
FROM account WHERE id = $1
"""
_FIND_BY_SIGN_UP_KEY: Final = "SELECT id, email, password_hash, version FROM account WHERE sign_up_key = $1"
_CHANGE_ACCOUNT: Final = """
UPDATE account SET email = $2, password_hash = $3, version = $4 WHERE id = $1 AND version = $4 - 1
"""
_REHASH: Final = "UPDATE account SET password_hash = $3 WHERE id = $1 AND password_hash = $2"
# The row lock makes whoever signs in with an old password meet whoever is changing it: one of them sees the other.
_BEGIN_SESSION: Final = """
INSERT INTO session (id, account_id, place, expires_at)
SELECT $1, id, $4, $5 FROM account WHERE id = $2 AND password_hash = $3 FOR SHARE
"""
# Before several sessions of an account are ended, as two who end each other's would wait for each other for ever.
_HOLD_ACCOUNT: Final = "SELECT FROM account WHERE id = $1 FOR NO KEY UPDATE"
_END_SESSION: Final = "UPDATE session SET ended_at = instant() WHERE id = $1 AND ended_at IS NULL"
_END_OTHER_SESSIONS: Final = """
UPDATE session SET ended_at = instant()
WHERE account_id = $1 AND id <> $2 AND ended_at IS NULL AND expires_at > instant()
RETURNING id, account_id, expires_at
"""
_FIND_TRIES: Final = """
SELECT instant(), about, count, last_at, wait_until FROM tries WHERE about = ANY($1::bytea[])
"""
# In one order for everybody, or two who try the same would wait for each other for ever.
_LOCK_TRIES: Final = """
INSERT INTO tries (about) SELECT about FROM unnest($1::bytea[]) AS asked (about) ORDER BY about
ON CONFLICT (about) DO UPDATE SET about = excluded.about
RETURNING about, count, last_at, wait_until
"""
_KEEP_TRIES: Final = """
UPDATE tries SET count = kept.count, last_at = kept.last_at, wait_until = kept.wait_until
FROM unnest($1::bytea[], $2::integer[], $3::timestamptz[], $4::timestamptz[])
    AS kept (about, count, last_at, wait_until)
WHERE tries.about = kept.about
"""
_FORGET_TRIES: Final = "DELETE FROM tries WHERE about = $1"
_TAKE_TRY_BACK: Final = "UPDATE tries SET count = count - 1, wait_until = last_at WHERE about = $1 AND count > 0"
_FORGET_OLD_TRIES: Final = "DELETE FROM tries WHERE last_at < instant() - interval '1 day'"
# They outlive their tokens, because they say where their owner is known to be.
_FORGET_OLD_SESSIONS: Final = "DELETE FROM session WHERE expires_at < instant() - interval '30 days'"


async def add_account(tx: Transaction, account: Account, sign_up_key: str | None) -> bool:
    """Keep a new account; False when the e-mail or the key has one already."""
    tag = await tx.execute(_ADD_ACCOUNT, account.id, account.email, account.password_hash, account.version, sign_up_key)
    return affected_rows(tag) == 1


async def find_by_email(db: Statements, email: str, place: Place) -> tuple[Account | None, bool]:
    """Return the account, and whether its owner has signed in from that place lately."""
    return _account_and_familiarity(await db.fetchrow(_FIND_BY_EMAIL, email, place))


async def find_by_id(db: Statements, account_id: UUID, place: Place) -> tuple[Account | None, bool]:
    """Return the account, and whether its owner has signed in from that place lately."""
    return _account_and_familiarity(await db.fetchrow(_FIND_BY_ID, account_id, place))


async def find_by_sign_up_key(db: Statements, key: str) -> Account | None:
    row = await db.fetchrow(_FIND_BY_SIGN_UP_KEY, key)
    return None if row is None else msgspec.convert(dict(row), Account)


def _account_and_familiarity(row: Row | None) -> tuple[Account | None, bool]:
    if row is None:
        return None, False
    return msgspec.convert(dict(row), Account), row["is_familiar"]


async def change_account(tx: Transaction, account: Account) -> bool:
    """Keep an account one version on; False when somebody else was faster. Raises EmailInUse."""
    try:
        tag = await tx.execute(_CHANGE_ACCOUNT, account.id, account.email, account.password_hash, account.version)
    except asyncpg.UniqueViolationError:
        raise EmailInUse from None
    return affected_rows(tag) == 1


async def rehash(tx: Transaction, account: Account, password_hash: str) -> bool:
    """Replace the hash of the same password; False when the password was changed meanwhile."""
    return affected_rows(await tx.execute(_REHASH, account.id, account.password_hash, password_hash)) == 1


async def begin_session(tx: Transaction, session: Session, password_hash: str, place: Place) -> bool:
    """Keep a session; False when the password that was verified is no longer the account's."""
    tag = await tx.execute(_BEGIN_SESSION, session.id, session.account_id, password_hash, place, session.expires_at)
    return affected_rows(tag) == 1


async def end_session(tx: Transaction, session_id: UUID) -> None:
    await tx.execute(_END_SESSION, session_id)


async def hold_account(tx: Transaction, account_id: UUID) -> None:
    """Let nobody else change this account or end several of its sessions until the transaction ends."""
    await tx.execute(_HOLD_ACCOUNT, account_id)


async def end_other_sessions(tx: Transaction, account_id: UUID, but_session_id: UUID) -> list[Session]:
    """End every session of an account that is held, but one; return those that were still open."""
    rows = await tx.fetch(_END_OTHER_SESSIONS, account_id, but_session_id)
    return [msgspec.convert(dict(row), Session) for row in rows]


async def find_tries(db: Statements, about: Sequence[bytes]) -> list[tuple[datetime, Tries]]:
    """Return what was counted about each so far, with the instant at which that was true."""
    return [(now, Tries(*tries)) for now, *tries in await db.fetch(_FIND_TRIES, about)]


async def lock_tries(tx: Transaction, about: Sequence[bytes]) -> list[Tries]:
    """Return what was counted about each so far; nobody else counts about them until the transaction ends."""
    return [Tries(*row) for row in await tx.fetch(_LOCK_TRIES, about)]


async def keep_tries(tx: Transaction, tries: Sequence[Tries]) -> None:
    await tx.execute(
        _KEEP_TRIES,
        *columns(tries, "about", "count", "last_at", "wait_until"),
    )


async def forget_tries(tx: Transaction, about: bytes) -> None:
    await tx.execute(_FORGET_TRIES, about)


async def take_try_back(tx: Transaction, about: bytes) -> None:
    await tx.execute(_TAKE_TRY_BACK, about)


async def forget_old_tries(db: Statements) -> None:
    await db.execute(_FORGET_OLD_TRIES)


async def forget_old_sessions(db: Statements) -> None:
    await db.execute(_FORGET_OLD_SESSIONS)
