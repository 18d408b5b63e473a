"""Fixtures of the tests of expiration."""

from collections.abc import AsyncIterator

import pytest_asyncio

from admitone.expiration.service import SERVICE
from admitone.kernel.runner import App
from tests import engines
from tests.support import StartNats, running_app


@pytest_asyncio.fixture
async def app(databases: engines.Databases, start_nats: StartNats) -> AsyncIterator[App]:
    async with running_app(databases, start_nats, SERVICE) as running:
        yield running
