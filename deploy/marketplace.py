"""A marketplace on this machine with two processes of every service behind one address, for drills to act upon."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import msgspec
import uvicorn

from admitone.auth.tokens import new_signing_key
from admitone.invariants import Sources, check
from admitone.kernel.migrations import migrate
from admitone.kernel.settings import Settings
from admitone.local import environ
from admitone.local.folder import opened
from admitone.local.installation import Installation, noted
from admitone.local.program import Program
from admitone.local.provision import provision
from admitone.local.proxy import Proxy
from admitone.local.server import LOOPBACK, Server, free_port
from admitone.registry import SERVICES

REPLICAS: Final = 2
# How long a replica still gets requests after it was told to go: in a cluster, until every proxy has heard of it.
_REMOVAL_SECONDS: Final = 0.5


class Rotation(Mapping[str, httpx.URL]):
    """Where each service's replicas are, one after the other; stands where a proxy looks for one address."""

    def __init__(self) -> None:
        self.replicas: dict[str, list[httpx.URL]] = {each.name: [] for each in SERVICES}
        self._turn = itertools.count()

    def __getitem__(self, service: str) -> httpx.URL:
        replicas = self.replicas[service]
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
    """Everything that runs, and how to replace a part of it."""

    settings: Settings
    installation: Installation
    servers: Mapping[str, Server]
    rotation: Rotation
    replicas: list[Replica] = field(default_factory=list)

    async def begin(self, service: str, number: int) -> Replica:
        """Start a replica and let it take part once it serves."""
        folder = self.installation.folder.path / "processes" / f"{service}-{number}"
        program = Program(folder, f"{service} {number}", ["admitone", "serve", service])
        url = httpx.URL(program.take_port())
        program.told = environ.for_service(
            service, self.settings, {each.name: self.settings.public_origin for each in SERVICES}
        )
        await program.begin()
        replica = Replica(service, program, url)
        self.rotation.replicas[service].append(url)
        self.replicas.append(replica)
        return replica

    async def end(self, replica: Replica) -> None:
        """Let a replica go as a cluster does: out of the rotation, a moment later SIGTERM, then wait."""
        self.rotation.replicas[replica.service].remove(replica.url)
        await asyncio.sleep(_REMOVAL_SECONDS)
        await asyncio.to_thread(replica.program.stop)
        self.replicas.remove(replica)

    async def roll(self, service: str) -> None:
        """Replace every replica of a service: the new one serves before the old one goes."""
        for number, old in enumerate([each for each in self.replicas if each.service == service]):
            await self.begin(service, next(_NUMBERS) + number)
            await self.end(old)

    async def broken_invariants(self, grace_seconds: float = 30.0) -> list[str]:
        """Ask what `admitone check` asks, having given events under way their time."""
        findings = await check(Sources.of(self.settings, SERVICES), grace_seconds=grace_seconds)
        return [f"{each.id}: {each.samples()}" for each in findings if not each.holds]


_NUMBERS = itertools.count(REPLICAS, step=REPLICAS)


@contextmanager
def _servers(installation: Installation) -> Iterator[dict[str, Server]]:
    with ExitStack() as stack:
        postgres, nats = installation.postgres(), installation.nats()
        assert postgres is not None
        assert nats is not None
        found: dict[str, Server] = {"postgres": postgres, "nats": nats}
        for server in found.values():
            stack.callback(server.stop)
            server.start()
        yield found


@contextmanager
def prepared(folder: Path, **chosen: object) -> Iterator[tuple[Settings, Installation, dict[str, Server]]]:
    """Start the servers; before the loop runs, because that blocks."""
    with opened(folder) as own:
        port = free_port()
        installation = Installation(own, Settings(data=str(folder), port=port, **chosen), SERVICES)  # type: ignore[arg-type]
        with _servers(installation) as servers:
            settings = installation.resolved(servers["postgres"], servers["nats"], new_signing_key)  # type: ignore[arg-type]
            yield msgspec.structs.replace(settings, trust_proxy=True), installation, servers


@asynccontextmanager
async def running(
    settings: Settings, installation: Installation, servers: Mapping[str, Server]
) -> AsyncIterator[Marketplace]:
    """Run the whole marketplace until the block ends."""
    async with AsyncExitStack() as stack:
        await provision(servers["postgres"].url(), installation.databases)  # type: ignore[attr-defined]
        await asyncio.gather(
            *(migrate(settings.migrator_urls[each.name], each.name) for each in SERVICES if each.has_database)
        )
        sandbox = installation.sandbox(settings)
        assert sandbox is not None
        stack.push_async_callback(asyncio.to_thread, sandbox.stop)
        await sandbox.begin()
        stack.enter_context(noted(settings))
        rotation = Rotation()
        operations = [each for service in SERVICES for each in service.operations]
        proxy = await stack.enter_async_context(Proxy({}, operations, settings))
        proxy._urls = rotation  # type: ignore[assignment]  # noqa: SLF001 – several replicas where it knows one
        await stack.enter_async_context(_listening(proxy, settings.port))
        market = Marketplace(settings, installation, servers, rotation)
        stack.push_async_callback(_end_all, market)
        for number in range(REPLICAS):
            await asyncio.gather(*(market.begin(each.name, number) for each in SERVICES))
        yield market


async def _end_all(market: Marketplace) -> None:
    await asyncio.gather(*(asyncio.to_thread(each.program.stop) for each in market.replicas))


@asynccontextmanager
async def _listening(app: Proxy, port: int) -> AsyncIterator[None]:
    config = uvicorn.Config(app, host=LOOPBACK, port=port, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())  # noqa: SLF001 – without its own handling of signals
    while not server.started:  # noqa: ASYNC110 – uvicorn offers no event to wait for
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await serving
