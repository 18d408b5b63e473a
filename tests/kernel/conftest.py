"""Two made-up services, alpha and beta, on real servers."""

from collections.abc import AsyncIterator, Callable

import pytest_asyncio

from admitone.kernel.messaging.bus import Bus
from admitone.local.nats import Nats
from tests import engines
from tests.kernel import support


@pytest_asyncio.fixture
async def world(databases: engines.Databases, start_nats: Callable[..., Nats]) -> AsyncIterator[support.World]:
    async with support.world(databases, start_nats(support.ALPHA, support.BETA)) as made:
        yield made


@pytest_asyncio.fixture
async def alpha_bus(world: support.World) -> AsyncIterator[Bus]:
    """A bus that publishes as alpha without a relay, to a stream that exists."""
    bus = await world.bus("alpha")
    await bus.ready()
    await bus.ensure_stream()
    yield bus
