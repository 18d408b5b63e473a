"""A service while it runs: what its use cases, jobs and pages get."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic

import httpx
from typing_extensions import TypeVar

from admitone.kernel.database.pool import Database
from admitone.kernel.http.sessions import Sessions
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.settings import Settings
from admitone.kernel.waiting import WaitLimit

# What a service's lifespan opens; Any where services of all kinds are meant.
Resources = TypeVar("Resources", default=Any)


def _replica_waits() -> WaitLimit:
    # An account waits for what it was just shown: once, or twice after a double click. Ids are easily made up.
    return WaitLimit(per_account_max=2, in_all_max=32)


@dataclass
class RunningService(Generic[Resources]):
    """A running service and its connections.

    `resources` is what the service's own `lifespan` yielded. `client_of` returns an HTTP client for another service's
    API; it bypasses the network if that service runs in this process. `stopping` is set at shutdown: requests that do
    not end by themselves, such as event streams, must end then. `replica_waits` bounds waiting for replicas.
    """

    name: str
    settings: Settings
    sessions: Sessions
    bus: Bus
    maybe_database: Database | None
    client_of: Callable[[str], httpx.AsyncClient]
    resources: Resources
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    replica_waits: WaitLimit = field(default_factory=_replica_waits)

    @property
    def database(self) -> Database:
        assert self.maybe_database is not None, f"{self.name} has no database"
        return self.maybe_database
