"""Answers given once: a creating request repeated with its Idempotency-Key gets the first answer again.

Source: IETF draft "The Idempotency-Key HTTP Header Field": another body under the same key is refused with 422.
"""

import hashlib
from uuid import UUID

import msgspec

from admitone.kernel.database import Transaction
from admitone.kernel.http import Answer
from admitone.kernel.refusals import KeyReused

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1::uuid::text || $2, 0))"
_RECALL = "SELECT request_hash, status, body FROM answer WHERE person = $1 AND key = $2"
_REMEMBER = "INSERT INTO answer (person, key, request_hash, status, body) VALUES ($1, $2, $3, $4, $5)"


def request_hash(route: str, body: msgspec.Struct) -> bytes:
    """Return what tells one request from another under the same key: its route and its parsed body."""
    return hashlib.sha256(route.encode() + b"\n" + msgspec.json.encode(body)).digest()


async def recall(tx: Transaction, person: UUID, key: str | None, request: bytes) -> Answer | None:
    """Return the answer given before under this key, or None; requests with the same key wait for each other.

    Raises KeyReused when the key was used for another request.
    """
    if key is None:
        return None
    await tx.execute(_LOCK, person, key)
    row = await tx.fetchrow(_RECALL, person, key)
    if row is None:
        return None
    if row["request_hash"] != request:
        raise KeyReused
    return Answer(row["status"], row["body"].encode())


async def remember(tx: Transaction, person: UUID, key: str | None, request: bytes, answer: Answer) -> Answer:
    """Keep a success with its effect, in the same transaction, and return it."""
    if key is not None:
        await tx.execute(_REMEMBER, person, key, request, answer.status, answer.encoded().decode())
    return answer
