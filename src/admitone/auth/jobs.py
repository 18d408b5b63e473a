"""Background jobs of auth."""

import asyncio
from typing import Final

from admitone.auth import store
from admitone.auth.resources import Resources
from admitone.kernel.running import RunningService

_EVERY_SECONDS: Final = 3600.0


async def delete_expired(service: RunningService[Resources]) -> None:
    """Delete expired sessions and old attempt counters every hour, until cancelled; replicas may run it at once."""
    while True:
        await store.delete_old_attempts(service.database)
        await store.delete_old_sessions(service.database)
        await asyncio.sleep(_EVERY_SECONDS)
