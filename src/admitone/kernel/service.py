"""The declaration of a service: its routes, subscriptions, publications, jobs, settings and gauges."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic

import msgspec
from starlette.routing import BaseRoute

from admitone.kernel.database.pool import Database
from admitone.kernel.http.operations import Operation
from admitone.kernel.messaging.event import Event
from admitone.kernel.messaging.handlers import AnyHandler
from admitone.kernel.messaging.outbox import Relay
from admitone.kernel.messaging.recovery import Rebuild
from admitone.kernel.messaging.snapshots import Snapshots
from admitone.kernel.running import Resources, RunningService


@asynccontextmanager
async def _no_resources(_service: RunningService[None]) -> AsyncIterator[Any]:
    yield None


@dataclass(frozen=True)
class Gauge:
    """A number that a service reads from its database at each scrape: one, or one for each value of a label.

    It must be quick for any amount of data: what an index has, not what a table has.
    """

    name: str
    description: str
    read: Callable[[Database], Awaitable[float | Mapping[str, float]]]
    label: str | None = None


@dataclass(frozen=True)
class Service(Generic[Resources]):
    """A service.

    `jobs` run until the service stops and are restarted if they fail. `lifespan` opens the service's resources before
    anything else runs and closes them last; it gets the service without resources. `pages` returns routes that are
    not operations of the API. `snapshots` describe its aggregates to consumers that lack their history. `rebuilds` are
    for a database that was restored to an earlier time: each rebuilds what changed with an event of the service's own.
    `gauges` are read from the database at each scrape. `settings` are the structs the service passes to
    `Settings.read`; they are validated at start. `calls` names the services whose API the service calls; deployments
    allow no other connections, and none to the internet unless it `reaches_internet`.
    """

    name: str
    operations: Sequence[Operation[Resources]] = ()
    subscriptions: Mapping[type[Event], AnyHandler] = field(default_factory=dict)
    publications: Sequence[type[Event]] = ()
    snapshots: Sequence[Snapshots] = ()
    rebuilds: Mapping[type[Event], Rebuild[Any]] = field(default_factory=dict)
    jobs: Sequence[Callable[[RunningService[Resources]], Awaitable[None]]] = ()
    settings: Sequence[type[msgspec.Struct]] = ()
    lifespan: Callable[[RunningService[None]], AbstractAsyncContextManager[Resources]] = _no_resources
    pages: Callable[[RunningService[Resources]], Sequence[BaseRoute]] | None = None
    gauges: Sequence[Gauge] = ()
    has_database: bool = True
    calls: Sequence[str] = ()
    reaches_internet: bool = False

    def __post_init__(self) -> None:
        for published in self.publications:
            assert published.producer == self.name, (
                f"{self.name} publishes {published.__name__}, an event of {published.producer}"
            )
        assert set(self.rebuilds) <= set(self.publications), f"{self.name} rebuilds from events it does not publish"

    @property
    def producers(self) -> list[str]:
        """The services this one subscribes to."""
        return sorted({event.producer for event in self.subscriptions})


@dataclass(frozen=True)
class Hosted:
    """A running service with its declaration and its relay, if it publishes."""

    declaration: Service
    service: RunningService
    relay: Relay | None
