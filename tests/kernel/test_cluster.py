"""A JetStream cluster of three, as in production: whichever server dies, each event is there once, and in order."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from admitone.kernel.bus import UNREACHABLE, Bus
from admitone.local.nats import program
from admitone.local.server import LOOPBACK, free_port
from tests.engines import Databases
from tests.kernel.support import World, numbered, own_tables, texts
from tests.support import eventually

_SERVERS = (1, 2, 3)
# An election takes seconds, and the first question after it may be lost as well.
_PATIENCE_SECONDS = 120.0
_CONFIGURATION = """
server_name: "{name}"
listen: "{host}:{port}"
jetstream {{ store_dir: "{store}", sync_interval: always }}
cluster {{ name: here, listen: "{host}:{route}", routes: [{routes}] }}
"""


class Cluster:
    """Three servers that know each other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {number: free_port() for number in _SERVERS}
        routes = {number: free_port() for number in _SERVERS}
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        for number in _SERVERS:
            (folder / f"{number}.conf").write_text(
                _CONFIGURATION.format(
                    name=number,
                    host=LOOPBACK,
                    port=self._ports[number],
                    store=folder / str(number),
                    route=routes[number],
                    routes=", ".join(f'"nats://{LOOPBACK}:{route}"' for route in routes.values()),
                )
            )
            self.start(number)

    @property
    def url(self) -> str:
        """One of them; it tells its clients of the others."""
        return f"nats://{LOOPBACK}:{self._ports[1]}"

    def start(self, number: int) -> None:
        with (self._folder / f"{number}.log").open("ab") as log:
            command = [str(program()), "--config", str(self._folder / f"{number}.conf")]
            self._children[number] = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self, number: int) -> None:
        self._children[number].kill()
        self._children[number].wait(10)

    def end(self) -> None:
        for number in self._children:
            self.kill(number)


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    made = Cluster(folder)
    try:
        yield made
    finally:
        made.end()


class ClusteredWorld(World):
    """Alpha and beta with a cluster between them."""

    cluster: Cluster

    async def bus(self, service: str) -> Bus:
        bus = Bus(service, replicas=len(_SERVERS))
        bus.start(self.cluster.url)
        self._stack.push_async_callback(bus.close)
        return bus

    async def leader_in_step(self) -> int | None:
        """The server that leads alpha's stream, once the others have all that it has."""
        try:
            state = (await self.ask("$JS.API.STREAM.INFO.alpha", {})).get("cluster", {})
        except UNREACHABLE:
            return None
        others = [each["current"] for each in state.get("replicas", [])]
        return int(state["leader"]) if state.get("leader") and others == [True, True] else None


@pytest_asyncio.fixture
async def world(databases: Databases, cluster: Cluster) -> AsyncIterator[ClusteredWorld]:
    async with AsyncExitStack() as stack:
        alpha, beta = await databases.fresh("alpha"), await databases.fresh("beta")
        await own_tables(beta)
        made = ClusteredWorld(None, alpha, beta, stack)  # type: ignore[arg-type]  # the cluster takes its place
        made.cluster = cluster
        await made.open()
        yield made


async def test_whichever_server_dies_each_event_is_on_the_stream_once_and_has_one_effect(world: ClusteredWorld) -> None:
    await world.relay()
    await world.inbox()
    told = 0
    for _ in range(2):
        await world.tell(*numbered(200, told))
        await eventually(world.took_in(told + 200), "beta hears of what is told", _PATIENCE_SECONDS)
        leader = await eventually(world.leader_in_step, "all servers have it", _PATIENCE_SECONDS)
        telling = asyncio.create_task(world.tell(*numbered(200, told + 200)))
        world.cluster.kill(leader)
        await telling
        told += 400
        await eventually(world.took_in(told), "beta hears of what was told meanwhile", _PATIENCE_SECONDS)
        world.cluster.start(leader)

    assert sorted(await world.effects()) == sorted(texts(told))
    await eventually(world.published_count(told), "all is acknowledged", _PATIENCE_SECONDS)
    assert await world.published() == list(enumerate(texts(told), start=1))
    assert await world.stream() == await world.published()
