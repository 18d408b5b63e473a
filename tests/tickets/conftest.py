"""Fixtures of the tests of tickets: an application, and clients of alice, bob and nobody."""

from collections.abc import AsyncIterator

import httpx
import pytest_asyncio

from admitone.kernel.runner import App
from tests import engines
from tests.support import StartNats, signed_in
from tests.tickets.support import tickets_app


@pytest_asyncio.fixture
async def app(databases: engines.Databases, start_nats: StartNats) -> AsyncIterator[App]:
    async with tickets_app(databases, start_nats) as running:
        yield running


@pytest_asyncio.fixture
async def alice(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Sells."""
    async with signed_in(app, "alice") as client:
        yield client


@pytest_asyncio.fixture
async def bob(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Signed in, and a stranger to alice's tickets."""
    async with signed_in(app, "bob") as client:
        yield client


@pytest_asyncio.fixture
async def nobody(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Not signed in."""
    async with app.client() as client:
        yield client
