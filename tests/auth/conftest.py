"""Fixtures of the tests of auth: the service alone, and two clients of it."""

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
async def visitor(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a session."""
    async with app.client() as client:
        yield client


@pytest_asyncio.fixture
async def alice(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """A client signed in as alice@example.com."""
    async with app.client() as client:
        await sign_up(client, "alice@example.com")
        yield client
