"""What a service is: one declaration of what it serves, hears and does in the background."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.routing import BaseRoute

from admitone.events import SessionRevoked
from admitone.kernel.bus import Bus
from admitone.kernel.database import Database
from admitone.kernel.event import Event
from admitone.kernel.http import Operation
from admitone.kernel.identity import Identity, session_revoked
from admitone.kernel.inbox import Handler
from admitone.kernel.metrics import Gauge
from admitone.kernel.settings import Settings


@dataclass
class Running:
    """A service with everything it runs on; use cases, jobs and pages get this.

    `client_of` makes an HTTP client of another service's API, which has no network in between when that service runs
    in this process; `stopping` is set when requests that never end by themselves must end. `own` is what the service's
    `opens` yielded: its connection to the outside world, where it has one.
    """

    name: str
    settings: Settings
    identity: Identity
    bus: Bus
    maybe_database: Database | None
    client_of: Callable[[str], httpx.AsyncClient]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    own: Any = None

    @property
    def database(self) -> Database:
        assert self.maybe_database is not None, f"{self.name} has no database"
        return self.maybe_database


Job = Callable[[Running], Awaitable[None]]


@asynccontextmanager
async def _opens_nothing(_running: Running) -> AsyncIterator[None]:
    yield None


@dataclass(frozen=True)
class Service:
    """A service's declaration.

    `pages` makes routes that are not operations of the API; `jobs` run until the service stops and are started again
    when they fail; `opens` is entered before anything else runs; `gauges` are read from the database when
    somebody asks for metrics.
    """

    name: str
    operations: Sequence[Operation] = ()
    hears: Mapping[type[Event], Handler] = field(default_factory=dict)
    tells: Sequence[type[Event]] = ()
    jobs: Sequence[Job] = ()
    pages: Callable[[Running], Sequence[BaseRoute]] | None = None
    opens: Callable[[Running], AbstractAsyncContextManager[Any]] = _opens_nothing
    gauges: Sequence[Gauge] = ()
    has_database: bool = True

    def __post_init__(self) -> None:
        for told in self.tells:
            assert told.producer == self.name, f"{self.name} tells {told.__name__}, which {told.producer} tells"

    @property
    def all_heard(self) -> Mapping[type[Event], Handler]:
        """What the service hears, with what every service with a database hears: the end of a session."""
        return {SessionRevoked: session_revoked, **self.hears} if self.has_database else self.hears
