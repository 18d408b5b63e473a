"""A small world of two made-up services on real servers."""

from collections.abc import AsyncIterator, Callable

import pytest_asyncio

from admitone.local.nats import Nats
from tests import engines
from tests.kernel import support


@pytest_asyncio.fixture
async def world(databases: engines.Databases, start_nats: Callable[..., Nats]) -> AsyncIterator[support.World]:
    async with support.world(databases, start_nats(support.ALPHA, support.BETA)) as made:
        yield made
