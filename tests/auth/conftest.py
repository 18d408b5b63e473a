"""auth alone, as a fixture, and the people in its tests."""

from collections.abc import AsyncIterator

import httpx
import pytest_asyncio

from admitone.auth.service import SERVICE
from admitone.kernel.runner import App
from tests.engines import Databases
from tests.support import StartNats, running_app, sign_up


@pytest_asyncio.fixture
async def app(databases: Databases, start_nats: StartNats) -> AsyncIterator[App]:
    async with running_app(databases, start_nats, SERVICE) as app:
        yield app


@pytest_asyncio.fixture
async def somebody(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """A browser whose user has not signed in."""
    async with app.client() as client:
        yield client


@pytest_asyncio.fixture
async def alice(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Alice's browser: she has signed up as alice@example.com."""
    async with app.client() as client:
        await sign_up(client, "alice@example.com")
        yield client
