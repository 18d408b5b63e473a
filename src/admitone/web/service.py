"""web: pages for people, and what happens told to them live."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from admitone.kernel.service import Running, Service
from admitone.web.backend import Backend
from admitone.web.live import Hub, end_streams, follow_bus
from admitone.web.pages import pages
from admitone.web.visit import Web


@asynccontextmanager
async def own(running: Running) -> AsyncIterator[Web]:
    """Open the way to the other services."""
    backend = Backend(running.client_of)
    try:
        yield Web(running.settings, running.identity, backend, Hub())
    finally:
        await backend.close()


SERVICE: Final = Service(
    name="web",
    pages=pages,
    jobs=(follow_bus, end_streams),
    opens=own,
    has_database=False,
)
