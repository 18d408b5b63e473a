"""A marketplace on this machine with two processes of every service behind one address, for drills."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from admitone.auth.tokens import new_signing_key
from admitone.invariants import Sources, check
from admitone.kernel.database.migrations import migrate
from admitone.kernel.errors import Unavailable
from admitone.kernel.http.server import bind_socket, serving_in_background
from admitone.kernel.settings import Settings
from admitone.local.environment import environment_for
from admitone.local.folder import open_data_folder
from admitone.local.installation import Installation, running_file
from admitone.local.nats import Nats
from admitone.local.postgres import Postgres
from admitone.local.program import Program
from admitone.local.provision import provision
from admitone.local.proxy import Proxy
from admitone.local.server import LOOPBACK, free_port
from admitone.registry import SERVICES, named

REPLICAS: Final = 2
# How long a replica still gets requests after its removal begins: in a cluster, until every proxy knows of it.
_REMOVAL_SECONDS: Final = 0.5


class Rotation(Mapping[str, httpx.URL]):
    """The URLs of the proxy: each lookup returns the next replica of a service. Raises Unavailable if there is none."""

    def __init__(self) -> None:
        self.replicas: dict[str, list[httpx.URL]] = {each.name: [] for each in SERVICES}
        self._turn = itertools.count()

    def __getitem__(self, service: str) -> httpx.URL:
        replicas = self.replicas[service]
        if not replicas:
            raise Unavailable
        return replicas[next(self._turn) % len(replicas)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.replicas)

    def __len__(self) -> int:
        return len(self.replicas)


@dataclass
class Replica:
    """One process of one service."""

    service: str
    program: Program
    url: httpx.URL


@dataclass
class Marketplace:
    """The running marketplace. Its `settings` apply to replicas started from then on."""

    settings: Settings
    installation: Installation
    postgres: Postgres
    rotation: Rotation = field(default_factory=Rotation)
    replicas: list[Replica] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def start_replica(self, service: str) -> None:
        """Start a replica, and add it to the rotation when it serves."""
        folder = self.installation.folder.path / "processes" / f"{service}-{next(self._numbers)}"
        program = Program(folder, folder.name, ["admitone", "serve", service])
        url = httpx.URL(program.take_port())
        (declaration,) = named([service])
        program.environment = environment_for(
            declaration, self.settings, {each.name: self.settings.public_origin for each in SERVICES}
        )
        await program.start_async()
        self.rotation.replicas[service].append(url)
        self.replicas.append(Replica(service, program, url))

    async def stop_replica(self, replica: Replica) -> None:
        """Remove a replica as a cluster does: out of the rotation, a moment later SIGTERM, then wait for its end."""
        self.rotation.replicas[replica.service].remove(replica.url)
        await asyncio.sleep(_REMOVAL_SECONDS)
        await asyncio.to_thread(replica.program.stop)
        self.replicas.remove(replica)

    async def replace_replicas(self, service: str) -> None:
        """Replace every replica of a service: each new one serves before an old one stops."""
        for old in [each for each in self.replicas if each.service == service]:
            await self.start_replica(service)
            await self.stop_replica(old)

    async def broken_invariants(self, grace_seconds: float = 30.0) -> list[str]:
        """Return what `admitone check` reports as broken."""
        findings = await check(Sources.of(self.settings, SERVICES), grace_seconds=grace_seconds)
        return [f"{each.id}: {each.samples()}" for each in findings if not each.holds]


@contextmanager
def prepared_marketplace(folder: Path, **variables: str) -> Iterator[Marketplace]:
    """Start PostgreSQL and NATS on a new data folder; `variables` are settings.

    Call it before the event loop runs, because starting a server blocks.
    """
    with open_data_folder(folder) as data:
        chosen = Settings.from_environment(
            {"ADMITONE_DATA": str(folder), "ADMITONE_PORT": str(free_port()), **variables}
        )
        installation = Installation(data, chosen, SERVICES)
        postgres, nats = installation.postgres(), installation.nats()
        assert postgres is not None
        assert nats is not None
        with _started(postgres), _started(nats):
            yield Marketplace(installation.resolved(postgres, nats, new_signing_key), installation, postgres)


@contextmanager
def _started(server: Postgres | Nats) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        server.stop()


@asynccontextmanager
async def running(market: Marketplace) -> AsyncIterator[None]:
    """Run all services, the sandbox and the proxy of a prepared marketplace for as long as the block lasts."""
    settings, installation = market.settings, market.installation
    async with AsyncExitStack() as stack:
        await provision(market.postgres.url(), installation.databases)
        await asyncio.gather(
            *(migrate(settings.migrator_urls[each.name], each.name) for each in SERVICES if each.has_database)
        )
        sandbox = installation.sandbox(settings)
        assert sandbox is not None
        stack.push_async_callback(asyncio.to_thread, sandbox.stop)
        await sandbox.start_async()
        stack.enter_context(running_file(settings))
        proxy = await stack.enter_async_context(Proxy(SERVICES, market.rotation, settings))
        await stack.enter_async_context(serving_in_background(proxy, bind_socket(LOOPBACK, settings.port), settings))
        stack.push_async_callback(_stop_all, market)
        for _ in range(REPLICAS):
            await asyncio.gather(*(market.start_replica(each.name) for each in SERVICES))
        yield


async def _stop_all(market: Marketplace) -> None:
    await asyncio.gather(*(asyncio.to_thread(each.program.stop) for each in market.replicas))
