"""Idempotency: a creating request that is repeated with its Idempotency-Key gets the stored response.

Source: IETF draft "The Idempotency-Key HTTP Header Field": the same key with a different body is refused with 422.
"""

import hashlib
from typing import Final
from uuid import UUID

import msgspec

from admitone.kernel.database.pool import Transaction
from admitone.kernel.errors import IdempotencyKeyReused
from admitone.kernel.http.operations import Response

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended($1::uuid::text || $2, 0))"
_FIND: Final = "SELECT request_hash, status, body FROM idempotent_response WHERE user_id = $1 AND key = $2"
_STORE: Final = """
INSERT INTO idempotent_response (user_id, key, request_hash, status, body) VALUES ($1, $2, $3, $4, $5)
"""


def request_hash(operation: str, body: msgspec.Struct) -> bytes:
    """Return what distinguishes requests with the same key: the operation and the parsed body."""
    return hashlib.sha256(operation.encode() + b"\n" + msgspec.json.encode(body)).digest()


async def stored_response(tx: Transaction, user_id: UUID, key: str | None, request: bytes) -> Response | None:
    """Return the response stored under this key, or None; requests with the same key wait for each other.

    Raises IdempotencyKeyReused if the key belongs to a different request.
    """
    if key is None:
        return None
    await tx.execute(_LOCK, user_id, key)
    row = await tx.fetchrow(_FIND, user_id, key)
    if row is None:
        return None
    if row["request_hash"] != request:
        raise IdempotencyKeyReused
    return Response(row["status"], row["body"].encode())


async def store_response(
    tx: Transaction, user_id: UUID, key: str | None, request: bytes, response: Response
) -> Response:
    """Store a success in the transaction of its effect, and return it."""
    if key is not None:
        await tx.execute(_STORE, user_id, key, request, response.status, response.encoded().decode())
    return response
