"""The web service's settings, and its resources: the client of the other services and the live hub."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import msgspec

from admitone.kernel.http.sessions import Sessions
from admitone.kernel.running import RunningService
from admitone.kernel.settings import Settings, Variable
from admitone.policy import MarketplacePolicy
from admitone.web.api_client import ApiClient
from admitone.web.hub import Hub


class WebSettings(msgspec.Struct, frozen=True):
    """With a publishable key, pages show Stripe's Payment Element; without one, the sandbox's test cards."""

    stripe_publishable_key: Annotated[str, Variable("STRIPE_PUBLISHABLE_KEY")] = ""


@dataclass(frozen=True)
class WebResources:
    settings: Settings
    policy: MarketplacePolicy
    stripe_publishable_key: str
    sessions: Sessions
    api: ApiClient
    hub: Hub


@asynccontextmanager
async def open_resources(service: RunningService[None]) -> AsyncIterator[WebResources]:
    policy = service.settings.read(MarketplacePolicy)
    stripe_key = service.settings.read(WebSettings).stripe_publishable_key
    api = ApiClient(service.client_of)
    try:
        yield WebResources(service.settings, policy, stripe_key, service.sessions, api, Hub())
    finally:
        await api.close()
