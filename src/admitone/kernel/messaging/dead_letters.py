"""Dead letters: events a service could not handle, kept with the error until an operator decides."""

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from admitone.kernel.database.pool import Database, Transaction, affected_rows
from admitone.kernel.messaging.event import Undecodable, unwrap
from admitone.kernel.messaging.inbox import Inbox
from admitone.kernel.messaging.replicas import load_versions


class DeadLetter(msgspec.Struct, frozen=True):
    """An event whose attempts are used up, or a message that is not an event."""

    id: str
    subject: str
    message: bytes
    attempts: int
    error: str
    first_failed_at: datetime
    last_failed_at: datetime

    @property
    def is_event(self) -> bool:
        """Whether the id is an event's; a message that is not an event is identified by stream and sequence."""
        return ":" not in self.id


_SELECT: Final = """
SELECT id, subject, message, attempts, error, first_failed_at, last_failed_at
FROM dead_letter
WHERE (given_up_at IS NULL) = $2 AND ($1::text IS NULL OR id = $1)
ORDER BY first_failed_at
"""


async def find_all(database: Database, letter_id: str | None = None, *, waiting: bool = False) -> list[DeadLetter]:
    """Return every dead letter, oldest first, or only the one with this id.

    With `waiting`, return events that failed and will be delivered again.
    """
    return [msgspec.convert(dict(row), DeadLetter) for row in await database.fetch(_SELECT, letter_id, waiting)]


async def drop(database: Database, letter: DeadLetter) -> bool:
    """Delete a dead letter for good; False if somebody else decided meanwhile.

    Its event counts as consumed from then on, so that publishing it again has no effect, and its aggregate has reached
    the event's version, so that the next event does not wait for it.
    """
    async with database.transaction() as tx:
        if affected_rows(await tx.execute("DELETE FROM dead_letter WHERE id = $1", letter.id)) == 0:
            return False
        if letter.is_event:
            await tx.execute("INSERT INTO inbox (id) VALUES ($1) ON CONFLICT DO NOTHING", UUID(letter.id))
            await _advance(tx, letter)
    return True


async def _advance(tx: Transaction, letter: DeadLetter) -> None:
    try:
        _, event = unwrap(letter.message)
    except Undecodable:
        return
    if event.aggregate_version is not None:
        versions = await load_versions(tx, [event.aggregate])
        versions.advance(event)
        await versions.save(tx)


async def retry(database: Database, inbox: Inbox, letter: DeadLetter) -> None:
    """Handle a dead letter now and delete it in the same transaction. Raises what the handler raises."""
    async with database.transaction() as tx:
        for missing in (await inbox.consume(tx, [unwrap(letter.message)])).values():
            raise missing
        await tx.execute("DELETE FROM dead_letter WHERE id = $1", letter.id)
