"""Failed events: how often each was tried, and when it is given up and becomes a dead letter."""

from typing import Final

from admitone.kernel.database.pool import Statements

_RECORD: Final = """
INSERT INTO dead_letter (id, subject, message, attempts, error, given_up_at)
VALUES ($1, $2, $3, 1, $4, CASE WHEN $5 <= 1 THEN instant() END)
ON CONFLICT (id) DO UPDATE SET
    attempts = dead_letter.attempts + 1, error = excluded.error, last_failed_at = instant(),
    given_up_at = coalesce(dead_letter.given_up_at, CASE WHEN dead_letter.attempts + 1 >= $5 THEN instant() END)
RETURNING attempts, given_up_at IS NOT NULL AS given_up
"""


async def record_failure(
    db: Statements, letter_id: str, subject: str, message: bytes, error: str, attempts_max: int
) -> tuple[int, bool]:
    """Count a failure; return how many there were, and whether the event is given up: it stays so."""
    row = await db.fetchrow(_RECORD, letter_id, subject, message, error, attempts_max)
    assert row is not None
    return row["attempts"], row["given_up"]
