"""Retention: deletes published events, ids of consumed events and stored responses once nothing can need them."""

import asyncio
import logging
from typing import Final

from admitone.kernel.database.pool import Database, affected_rows
from admitone.kernel.messaging.bus import OUTBOX_RETENTION_SECONDS, STREAM_RETENTION_SECONDS

log = logging.getLogger(__name__)

_EVERY_SECONDS: Final = 60.0
# Few enough that no statement holds locks for long.
_ROWS_MAX: Final = 2000

_DAY_SECONDS: Final = 24 * 3600
_RULES: Final = (
    # An event that is not published stays, however old.
    (
        (
            "DELETE FROM outbox WHERE position IN (SELECT position FROM outbox WHERE stream_sequence IS NOT NULL "
            "AND recorded_at < instant() - make_interval(secs => $1) ORDER BY recorded_at LIMIT $2)"
        ),
        OUTBOX_RETENTION_SECONDS,
    ),
    # Longer than any stream can deliver the event: it may be published again on its last day in the outbox, and the
    # stream keeps that copy for its full retention.
    (
        (
            "DELETE FROM inbox WHERE id IN (SELECT id FROM inbox "
            "WHERE received_at < instant() - make_interval(secs => $1) ORDER BY received_at LIMIT $2)"
        ),
        OUTBOX_RETENTION_SECONDS + STREAM_RETENTION_SECONDS + _DAY_SECONDS,
    ),
    (
        (
            "DELETE FROM idempotent_response WHERE (user_id, key) IN (SELECT user_id, key FROM idempotent_response "
            "WHERE created_at < instant() - make_interval(secs => $1) ORDER BY created_at LIMIT $2)"
        ),
        OUTBOX_RETENTION_SECONDS,
    ),
)


async def prune(database: Database) -> int:
    """Delete rows past their retention; return how many."""
    total = 0
    for sql, seconds in _RULES:
        while deleted := affected_rows(await database.execute(sql, float(seconds), _ROWS_MAX)):
            total += deleted
            if deleted < _ROWS_MAX:
                break
            await asyncio.sleep(0.05)
    return total


async def prune_forever(database: Database) -> None:
    """Prune every minute, until cancelled."""
    while True:
        if deleted := await prune(database):
            log.info("rows past their retention were deleted", extra={"rows": deleted})
        await asyncio.sleep(_EVERY_SECONDS)
