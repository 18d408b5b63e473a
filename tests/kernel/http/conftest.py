"""The made-up service of `support.py`, running beside auth."""

from collections.abc import AsyncIterator

import pytest_asyncio

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.runner import App
from tests import engines
from tests.kernel.http.support import ALPHA
from tests.support import StartNats, running_app


@pytest_asyncio.fixture
async def app(databases: engines.Databases, start_nats: StartNats) -> AsyncIterator[App]:
    async with running_app(databases, start_nats, ALPHA, AUTH) as running:
        yield running
