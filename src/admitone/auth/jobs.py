"""What auth does in the background."""

import asyncio
from typing import Final

from admitone.auth import store
from admitone.auth.resources import Resources
from admitone.kernel.running import RunningService

_EVERY_SECONDS: Final = 3600.0


async def delete_expired(service: RunningService[Resources]) -> None:
    """Delete expired sessions and old sign-in attempts, every hour until cancelled; replicas may run it concurrently."""
    while True:
        await store.forget_old_tries(service.database)
        await store.forget_old_sessions(service.database)
        await asyncio.sleep(_EVERY_SECONDS)
