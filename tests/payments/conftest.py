"""Worlds in which something can be paid."""

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
async def deaf_world(databases: Databases, start_nats: Callable[..., Nats]) -> AsyncIterator[World]:
    """A world in which the provider's webhooks never come."""
    async with running_world(databases, start_nats, webhooks=False) as world:
        yield world
