"""The provider under test: the sandbox, and Stripe itself where a key for its test mode is given."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import stripe

from tests.stripe_sandbox.running import RunningSandbox, WebhookEndpoint, running_endpoint, running_sandbox

STRIPE_KEY = os.environ.get("STRIPE_TEST_SECRET_KEY", "")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "sandbox.sqlite3"


@pytest_asyncio.fixture
async def sandbox(database: Path) -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(database) as sandbox:
        yield sandbox


@pytest_asyncio.fixture
async def endpoint() -> AsyncIterator[WebhookEndpoint]:
    async with running_endpoint() as endpoint:
        yield endpoint


@pytest_asyncio.fixture(params=["sandbox", "stripe"] if STRIPE_KEY else ["sandbox"])
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[stripe.StripeClient]:
    """The SDK's client of each provider: what is asserted of one must hold for the other."""
    if request.param == "stripe":
        transport = stripe.HTTPXClient(timeout=30)
        yield stripe.StripeClient(STRIPE_KEY, http_client=transport)
        await transport.close_async()  # type: ignore[no-untyped-call]  # not annotated in the SDK
        return
    async with running_sandbox() as sandbox:
        yield sandbox.client
