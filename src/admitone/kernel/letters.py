"""Dead letters: events that a service could not handle, kept with the reason until people decide about them."""

from datetime import datetime
from uuid import UUID

import msgspec

from admitone.kernel.database import Database, affected
from admitone.kernel.event import unwrap
from admitone.kernel.inbox import Inbox


class DeadLetter(msgspec.Struct, frozen=True):
    """An event that was given up after its attempts, or a message that is no event."""

    id: str
    subject: str
    message: bytes
    attempts: int
    error: str
    first_failed_at: datetime
    last_failed_at: datetime

    @property
    def is_event(self) -> bool:
        """Whether it has an event's id; what is no event goes by its place in the stream."""
        return ":" not in self.id


_COLUMNS = "id, subject, message, attempts, error, first_failed_at, last_failed_at"


async def listed(database: Database) -> list[DeadLetter]:
    """Return every dead letter, the oldest first."""
    rows = await database.fetch(
        f"SELECT {_COLUMNS} FROM dead_letter WHERE given_up_at IS NOT NULL ORDER BY first_failed_at"  # noqa: S608
    )
    return [msgspec.convert(dict(row), DeadLetter) for row in rows]


async def find(database: Database, letter_id: str) -> DeadLetter | None:
    row = await database.fetchrow(
        f"SELECT {_COLUMNS} FROM dead_letter WHERE given_up_at IS NOT NULL AND id = $1",  # noqa: S608
        letter_id,
    )
    return None if row is None else msgspec.convert(dict(row), DeadLetter)


async def drop(database: Database, letter: DeadLetter) -> bool:
    """Forget a dead letter for good; False when somebody else decided about it meanwhile.

    Its event counts as taken in from then on, so that publishing it again does not bring it back.
    """
    async with database.transaction() as tx:
        if affected(await tx.execute("DELETE FROM dead_letter WHERE id = $1", letter.id)) == 0:
            return False
        if letter.is_event:
            await tx.execute("INSERT INTO inbox (id) VALUES ($1) ON CONFLICT DO NOTHING", UUID(letter.id))
    return True


async def retry(database: Database, inbox: Inbox, letter: DeadLetter) -> None:
    """Handle a dead letter now; it is forgotten in the same transaction. Raises what the handler raises."""
    async with database.transaction() as tx:
        for gap in (await inbox.take_in(tx, [unwrap(letter.message)])).values():
            raise gap
        await tx.execute("DELETE FROM dead_letter WHERE id = $1", letter.id)
