"""What was made in another service a moment ago may still be on its way here: worth a short wait before "Not Found"."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from uuid import UUID

from admitone.kernel import clock

T = TypeVar("T")

# An event is here after some ten milliseconds, or later when much is going on.
_YOUNG_SECONDS: Final = 30.0
_WAIT_SECONDS: Final = 2.0
_FIRST_PAUSE_SECONDS: Final = 0.01
_PAUSE_SECONDS_MAX: Final = 0.1


def is_young(made: UUID) -> bool:
    """Whether an id was made in the last seconds, by the time it carries (RFC 9562, UUIDv7); no other id is young."""
    if made.version != 7:
        return False
    return abs(clock.now().timestamp() - (made.int >> 80) / 1000) < _YOUNG_SECONDS


async def once_here(find: Callable[[], Awaitable[T]], made: UUID, *, is_missing: Callable[[T], bool]) -> T:
    """Return what `find` finds; while that is missing and the id is young, look again for up to two seconds."""
    found = await find()
    deadline = clock.monotonic_seconds() + _WAIT_SECONDS
    pause_seconds = _FIRST_PAUSE_SECONDS
    while is_missing(found) and is_young(made) and clock.monotonic_seconds() < deadline:
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 2, _PAUSE_SECONDS_MAX)
        found = await find()
    return found
