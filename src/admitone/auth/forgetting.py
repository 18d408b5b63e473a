"""Forgets, hour by hour, sessions and tries that nobody needs any more."""

import asyncio
from typing import Final

from admitone.auth import store
from admitone.kernel.service import Running

_EVERY_SECONDS: Final = 3600.0


async def forget_old(running: Running) -> None:
    """Run until cancelled; the same in every replica does no harm."""
    while True:
        await store.forget_old_tries(running.database)
        await store.forget_old_sessions(running.database)
        await asyncio.sleep(_EVERY_SECONDS)
