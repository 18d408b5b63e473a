"""Forgetting what nobody can ask for any more: old events, ids of events taken in, answers given."""

import asyncio
import logging
from typing import Final

from admitone.kernel.bus import OUTBOX_RETENTION_SECONDS, STREAM_RETENTION_SECONDS
from admitone.kernel.database import UNREACHABLE, Database, affected
from admitone.kernel.refusals import Unavailable

log = logging.getLogger(__name__)

_EVERY_SECONDS: Final = 60.0
# Few enough at a time that no statement holds anything up.
_ROWS_MAX: Final = 2000

_DAY: Final = 24 * 3600
_RULES: Final = (
    # An event that is not published yet stays, however old.
    (
        (
            "DELETE FROM outbox WHERE position IN (SELECT position FROM outbox WHERE stream_sequence IS NOT NULL "
            "AND recorded_at < instant() - make_interval(secs => $1) ORDER BY recorded_at LIMIT $2)"
        ),
        OUTBOX_RETENTION_SECONDS,
    ),
    # Ids are kept longer than any stream could deliver their event: it may be published again on its last day in the
    # outbox, and then the stream keeps that copy for its own time.
    (
        (
            "DELETE FROM inbox WHERE id IN (SELECT id FROM inbox "
            "WHERE received_at < instant() - make_interval(secs => $1) ORDER BY received_at LIMIT $2)"
        ),
        OUTBOX_RETENTION_SECONDS + STREAM_RETENTION_SECONDS + _DAY,
    ),
    (
        (
            "DELETE FROM answer WHERE (person, key) IN (SELECT person, key FROM answer "
            "WHERE given_at < instant() - make_interval(secs => $1) ORDER BY given_at LIMIT $2)"
        ),
        OUTBOX_RETENTION_SECONDS,
    ),
)


async def prune(database: Database) -> int:
    """Delete what is past its time; return how many rows went."""
    gone = 0
    for sql, seconds in _RULES:
        while deleted := affected(await database.execute(sql, float(seconds), _ROWS_MAX)):
            gone += deleted
            if deleted < _ROWS_MAX:
                break
            await asyncio.sleep(0.05)
    return gone


async def keep_pruned(database: Database) -> None:
    """Prune every minute, for ever."""
    while True:
        try:
            if gone := await prune(database):
                log.info("old rows are gone", extra={"rows": gone})
        except (Unavailable, *UNREACHABLE) as error:
            log.warning("pruning waits for the database", extra={"error": repr(error)})
        await asyncio.sleep(_EVERY_SECONDS)
