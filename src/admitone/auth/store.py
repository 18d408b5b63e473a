"""The SQL of auth, one function per statement."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from admitone.auth.model import LOST_HASH, Account, Attempts, ClientNetwork, EmailInUse, Session, ascii_spelling
from admitone.kernel.database.pool import Statements, Transaction, affected_rows, columns, from_row

# Accounts are no longer stored with the domain in ASCII, so nobody can add one between this look and the insert.
_ADD_ACCOUNT: Final = """
INSERT INTO account (id, email, password_hash, version, sign_up_key)
SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT FROM account WHERE email = $6)
ON CONFLICT DO NOTHING
"""
_REBUILD_ACCOUNT: Final = """
INSERT INTO account (id, email, password_hash, version, signed_up_at) VALUES ($1, $2, $3, $4, $5)
"""
_FIND_BY_EMAIL: Final = """
SELECT id, email, password_hash, version,
    EXISTS (SELECT 1 FROM session WHERE account_id = account.id AND network = $2) AS is_known_network
FROM account WHERE email = ANY($1::text[]) ORDER BY email <> ($1::text[])[1]
"""
_ACCOUNT_FOR_CHANGE: Final = """
SELECT id, email, password_hash, version FROM account
WHERE email = ANY($1::text[]) ORDER BY email <> ($1::text[])[1] LIMIT 1 FOR UPDATE
"""
_HAS_ANOTHER_ACCOUNT: Final = "SELECT EXISTS (SELECT FROM account WHERE email = $1 AND id <> $2)"
_FIND_BY_ID: Final = """
SELECT id, email, password_hash, version,
    EXISTS (SELECT 1 FROM session WHERE account_id = account.id AND network = $2) AS is_known_network
FROM account WHERE id = $1
"""
_FIND_BY_SIGN_UP_KEY: Final = "SELECT id, email, password_hash, version FROM account WHERE sign_up_key = $1"
_CHANGE_ACCOUNT: Final = """
UPDATE account SET email = $2, password_hash = $3, version = $4 WHERE id = $1 AND version = $4 - 1
"""
_REPLACE_HASH: Final = "UPDATE account SET password_hash = $3 WHERE id = $1 AND password_hash = $2"
# FOR SHARE serialises this with a change of the password: a sign-in with the old one either fails here, or is seen
# and ended by the change.
_START_SESSION: Final = """
INSERT INTO session (id, account_id, network, expires_at)
SELECT $1, id, $4, $5 FROM account WHERE id = $2 AND password_hash = $3 FOR SHARE
"""
# Taken before several sessions of an account are ended: two transactions that end each other's would deadlock.
_LOCK_ACCOUNT: Final = "SELECT FROM account WHERE id = $1 FOR NO KEY UPDATE"
_END_SESSION: Final = "UPDATE session SET ended_at = instant() WHERE id = $1 AND ended_at IS NULL"
_END_OTHER_SESSIONS: Final = """
UPDATE session SET ended_at = instant()
WHERE account_id = $1 AND id <> $2 AND ended_at IS NULL AND expires_at > instant()
RETURNING id, account_id, expires_at
"""
_FIND_ATTEMPTS: Final = """
SELECT instant(), key, count, last_at, wait_until FROM attempts WHERE key = ANY($1::bytea[])
"""
# Rows are locked in the order of their keys: otherwise two transactions that count the same attempts could deadlock.
_LOCK_ATTEMPTS: Final = """
INSERT INTO attempts (key) SELECT key FROM unnest($1::bytea[]) AS wanted (key) ORDER BY key
ON CONFLICT (key) DO UPDATE SET key = excluded.key
RETURNING key, count, last_at, wait_until
"""
_SAVE_ATTEMPTS: Final = """
UPDATE attempts SET count = new.count, last_at = new.last_at, wait_until = new.wait_until
FROM unnest($1::bytea[], $2::integer[], $3::timestamptz[], $4::timestamptz[]) AS new (key, count, last_at, wait_until)
WHERE attempts.key = new.key
"""
_DELETE_ATTEMPTS: Final = "DELETE FROM attempts WHERE key = $1"
_UNCOUNT_ATTEMPT: Final = "UPDATE attempts SET count = count - 1, wait_until = last_at WHERE key = $1 AND count > 0"
_DELETE_OLD_ATTEMPTS: Final = "DELETE FROM attempts WHERE last_at < instant() - interval '1 day'"
# Sessions are kept beyond their expiry because they record the networks in which their owner is known.
_DELETE_OLD_SESSIONS: Final = "DELETE FROM session WHERE expires_at < instant() - interval '30 days'"


async def add_account(tx: Transaction, account: Account, sign_up_key: str | None) -> bool:
    """Insert an account; return False if one with the same e-mail or the same key exists."""
    fields = (account.id, account.email, account.password_hash, account.version, sign_up_key)
    tag = await tx.execute(_ADD_ACCOUNT, *fields, ascii_spelling(account.email))
    return affected_rows(tag) == 1


async def rebuild_account(tx: Transaction, account: Account, signed_up_at: datetime) -> None:
    """Insert an account of which only the event is known; raises a violation if its e-mail is in use."""
    await tx.execute(_REBUILD_ACCOUNT, account.id, account.email, account.password_hash, account.version, signed_up_at)


async def find_accounts_by_email(db: Statements, email: str, network: ClientNetwork) -> tuple[list[Account], bool]:
    """Return the account, and whether its owner has recently signed in from that network.

    They are two if one was created with each spelling of the domain before there was one spelling.
    """
    rows = await db.fetch(_FIND_BY_EMAIL, [email, ascii_spelling(email)], network)
    return [msgspec.convert(dict(row), Account) for row in rows], any(row["is_known_network"] for row in rows)


async def has_another_account(db: Statements, email: str, account_id: UUID) -> bool:
    """Return whether an account other than this one is stored with exactly this spelling of an e-mail."""
    found: bool = await db.fetchval(_HAS_ANOTHER_ACCOUNT, email, account_id)
    return found


async def find_account(db: Statements, account_id: UUID, network: ClientNetwork) -> tuple[Account | None, bool]:
    """Return the account, and whether its owner has recently signed in from that network."""
    row = await db.fetchrow(_FIND_BY_ID, account_id, network)
    if row is None:
        return None, False
    return msgspec.convert(dict(row), Account), row["is_known_network"]


async def find_account_by_sign_up_key(db: Statements, key: str) -> Account | None:
    row = await db.fetchrow(_FIND_BY_SIGN_UP_KEY, key)
    return None if row is None else msgspec.convert(dict(row), Account)


async def account_for_change(tx: Transaction, email: str) -> Account | None:
    """Return the account with an e-mail, in either spelling, and lock it until the transaction ends."""
    row = await tx.fetchrow(_ACCOUNT_FOR_CHANGE, [email, ascii_spelling(email)])
    return None if row is None else msgspec.convert(dict(row), Account)


async def emails_without_password(db: Statements) -> list[str]:
    """Return the e-mails of the accounts whose password is lost, in order."""
    rows = await db.fetch("SELECT email FROM account WHERE password_hash = $1 ORDER BY email", LOST_HASH)
    return [row["email"] for row in rows]


async def change_account(tx: Transaction, account: Account) -> bool:
    """Save an account's next version; return False if a concurrent change won. Raises EmailInUse."""
    try:
        tag = await tx.execute(_CHANGE_ACCOUNT, account.id, account.email, account.password_hash, account.version)
    except asyncpg.UniqueViolationError:
        raise EmailInUse from None
    return affected_rows(tag) == 1


async def replace_hash(tx: Transaction, account: Account, password_hash: str) -> bool:
    """Replace the hash of an unchanged password; return False if the password has been changed meanwhile."""
    return affected_rows(await tx.execute(_REPLACE_HASH, account.id, account.password_hash, password_hash)) == 1


async def start_session(tx: Transaction, session: Session, password_hash: str, network: ClientNetwork) -> bool:
    """Insert a session; return False if the password that was verified is no longer the account's."""
    tag = await tx.execute(_START_SESSION, session.id, session.account_id, password_hash, network, session.expires_at)
    return affected_rows(tag) == 1


async def end_session(tx: Transaction, session_id: UUID) -> None:
    await tx.execute(_END_SESSION, session_id)


async def lock_account(tx: Transaction, account_id: UUID) -> None:
    """Exclude concurrent changes of the account, and of several of its sessions, until the transaction ends."""
    await tx.execute(_LOCK_ACCOUNT, account_id)


async def end_other_sessions(tx: Transaction, account_id: UUID, except_session_id: UUID) -> list[Session]:
    """End all sessions of a locked account except one; return those that were still open."""
    rows = await tx.fetch(_END_OTHER_SESSIONS, account_id, except_session_id)
    return [msgspec.convert(dict(row), Session) for row in rows]


async def find_attempts(db: Statements, keys: Sequence[bytes]) -> list[tuple[datetime, Attempts]]:
    """Return the counters of these keys that exist, each with the time of the read."""
    return [(now, Attempts(*attempts)) for now, *attempts in await db.fetch(_FIND_ATTEMPTS, keys)]


async def lock_attempts(tx: Transaction, keys: Sequence[bytes]) -> list[Attempts]:
    """Return the counters of these keys, new ones at zero, and lock them until the transaction ends."""
    return [Attempts(*row) for row in await tx.fetch(_LOCK_ATTEMPTS, keys)]


async def save_attempts(tx: Transaction, attempts: Sequence[Attempts]) -> None:
    await tx.execute(_SAVE_ATTEMPTS, *columns(attempts, "key", "count", "last_at", "wait_until"))


async def delete_attempts(tx: Transaction, key: bytes) -> None:
    await tx.execute(_DELETE_ATTEMPTS, key)


async def uncount_attempt(tx: Transaction, key: bytes) -> None:
    await tx.execute(_UNCOUNT_ATTEMPT, key)


async def delete_old_attempts(db: Statements) -> None:
    await db.execute(_DELETE_OLD_ATTEMPTS)


async def delete_old_sessions(db: Statements) -> None:
    await db.execute(_DELETE_OLD_SESSIONS)


async def account_ids_after(db: Statements, account_id: UUID, limit: int) -> list[UUID]:
    """Return the ids of accounts that follow one, in order."""
    rows = await db.fetch("SELECT id FROM account WHERE id > $1 ORDER BY id LIMIT $2", account_id, limit)
    return [row["id"] for row in rows]


async def accounts(tx: Transaction, account_ids: Sequence[UUID]) -> list[Account]:
    """Return accounts and lock their rows until the transaction ends."""
    rows = await tx.fetch(
        "SELECT id, email, password_hash, version FROM account WHERE id = ANY($1::uuid[]) ORDER BY id FOR SHARE",
        account_ids,
    )
    return [from_row(Account, row) for row in rows]


async def ended_session_ids_after(db: Statements, session_id: UUID, limit: int) -> list[UUID]:
    """Return the ids of sessions that were ended, have not expired and follow one, in order."""
    rows = await db.fetch(
        "SELECT id FROM session WHERE id > $1 AND ended_at IS NOT NULL AND expires_at > instant() ORDER BY id LIMIT $2",
        session_id,
        limit,
    )
    return [row["id"] for row in rows]


async def ended_sessions(tx: Transaction, session_ids: Sequence[UUID]) -> list[Session]:
    """Return those of the sessions that were ended."""
    rows = await tx.fetch(
        "SELECT id, account_id, expires_at FROM session WHERE id = ANY($1::uuid[]) AND ended_at IS NOT NULL",
        session_ids,
    )
    return [from_row(Session, row) for row in rows]
