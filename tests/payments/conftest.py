"""Fixtures of the payments tests."""

from collections.abc import AsyncIterator, Callable

import pytest_asyncio

from admitone.local.nats import Nats
from tests.engines import Databases
from tests.payments.support import World, running_world


@pytest_asyncio.fixture
async def world(databases: Databases, start_nats: Callable[..., Nats]) -> AsyncIterator[World]:
    async with running_world(databases, start_nats) as world:
        yield world


@pytest_asyncio.fixture
async def world_without_webhooks(databases: Databases, start_nats: Callable[..., Nats]) -> AsyncIterator[World]:
    """A world in which the provider sends no webhooks."""
    async with running_world(databases, start_nats, webhooks=False) as world:
        yield world
