"""The provider under test: the sandbox, and Stripe itself where a key for its test mode is given."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import stripe

from admitone.local.postgres import Postgres
from tests.sandbox.running import Mailbox, RunningSandbox, fresh_database, running_mailbox, running_sandbox

STRIPE_KEY = os.environ.get("STRIPE_TEST_SECRET_KEY", "")


@pytest_asyncio.fixture
async def database_url(postgres: Postgres) -> AsyncIterator[str]:
    async with fresh_database(postgres) as url:
        yield url


@pytest_asyncio.fixture
async def sandbox(database_url: str) -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(database_url) as sandbox:
        yield sandbox


@pytest_asyncio.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    async with running_mailbox() as mailbox:
        yield mailbox


@pytest_asyncio.fixture(params=["sandbox", "stripe"] if STRIPE_KEY else ["sandbox"])
async def provider(request: pytest.FixtureRequest, postgres: Postgres) -> AsyncIterator[stripe.StripeClient]:
    """The SDK's client of each provider: what is asserted about one must hold for the other."""
    if request.param == "stripe":
        transport = stripe.HTTPXClient(timeout=30)
        yield stripe.StripeClient(STRIPE_KEY, http_client=transport)
        await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK says nothing about it
        return
    async with fresh_database(postgres) as url, running_sandbox(url) as sandbox:
        yield sandbox.client
