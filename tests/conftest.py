"""Fixtures for every test; what they are made of is in `engines.py`."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from admitone.kernel.messaging.bus import Bus
from admitone.local.nats import Nats
from admitone.local.postgres import Postgres
from tests import engines


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_bus_at_the_start() -> Iterator[None]:
    """A marketplace that a test starts has no past: its holds may end at once. A test of outages sets it back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bus, "catch_up_seconds", 0.1)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL for all tests of this worker. A test that kills or stops it wants `private_postgres`."""
    with engines.running_postgres(may_have_standby=False) as server:
        yield server


@pytest.fixture
def private_postgres() -> Iterator[Postgres]:
    """A PostgreSQL of this test alone."""
    with engines.running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def _databases(postgres: Postgres) -> engines.Databases:
    return engines.Databases(postgres)


@pytest_asyncio.fixture
async def databases(_databases: engines.Databases) -> AsyncIterator[engines.Databases]:
    """Fresh, migrated databases: `(await databases.fresh("orders")).url`."""
    yield _databases
    await _databases.drop()


@pytest.fixture
def start_nats() -> Iterator[Callable[..., Nats]]:
    """Start a NATS for this test with the given accounts and `admin`: `start_nats(NatsUser("orders", "secret"))`."""
    with ExitStack() as running:
        yield lambda *users: running.enter_context(engines.running_nats(users))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of this test alone, with a short path that every account may enter."""
    with engines.short_folder() as path:
        yield path
