"""The web service and the services it requests, all real, in one process."""

from collections.abc import AsyncIterator

import pytest

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.runner import App
from admitone.orders.service import SERVICE as ORDERS
from admitone.tickets.service import SERVICE as TICKETS
from admitone.web.service import SERVICE as WEB
from tests.engines import Databases
from tests.support import StartNats, running_app


@pytest.fixture
async def app(databases: Databases, start_nats: StartNats) -> AsyncIterator[App]:
    async with running_app(databases, start_nats, AUTH, TICKETS, ORDERS, WEB) as running:
        yield running
