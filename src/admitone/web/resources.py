"""What web is configured with and opens at start: a client of the other services, and the live hub."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import msgspec

from admitone.kernel.http.sessions import Sessions
from admitone.kernel.running import RunningService
from admitone.kernel.settings import Settings, Variable
from admitone.policy import MarketplacePolicy
from admitone.web.backend import Backend
from admitone.web.hub import Hub


class WebSettings(msgspec.Struct, frozen=True):
    """The publishable key selects Stripe's Payment Element; without it, pages offer the sandbox's test cards."""

    stripe_publishable_key: Annotated[str, Variable("STRIPE_PUBLISHABLE_KEY")] = ""


@dataclass(frozen=True)
class Web:
    """What the pages of this process use."""

    settings: Settings
    policy: MarketplacePolicy
    stripe_publishable_key: str
    sessions: Sessions
    backend: Backend
    hub: Hub


@asynccontextmanager
async def open_resources(service: RunningService[None]) -> AsyncIterator[Web]:
    policy = service.settings.read(MarketplacePolicy)
    stripe_key = service.settings.read(WebSettings).stripe_publishable_key
    backend = Backend(service.client_of)
    try:
        yield Web(service.settings, policy, stripe_key, service.sessions, backend, Hub())
    finally:
        await backend.close()
