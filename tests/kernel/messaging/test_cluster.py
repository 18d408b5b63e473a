"""A JetStream cluster of three, as in production: whichever server dies, the stream has each event once, in order."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio

from admitone.kernel.messaging.bus import UNREACHABLE
from admitone.local.nats import Nats, program
from admitone.local.server import LOOPBACK, free_port
from tests.engines import Databases
from tests.kernel import support
from tests.kernel.support import World, numbered, texts
from tests.support import eventually

_SERVERS = (1, 2, 3)
# An election takes seconds, and the first request after it may be lost as well.
_DEADLINE_SECONDS = 120.0
_CONFIGURATION = """
server_name: "{name}"
listen: "{host}:{port}"
jetstream {{ store_dir: "{store}", sync_interval: always }}
cluster {{ name: here, listen: "{host}:{route}", routes: [{routes}] }}
"""


class Cluster:
    """Three NATS servers with routes to each other."""

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

    def url(self, _user: str) -> str:
        """Return the URL of one server, which sends its clients the addresses of the others."""
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


@pytest_asyncio.fixture
async def world(databases: Databases, cluster: Cluster) -> AsyncIterator[World]:
    # A world uses only the URL of its bus.
    async with support.world(databases, cast("Nats", cluster), replicas=len(_SERVERS)) as made:
        yield made


async def leader_of_current_replicas(world: World) -> int | None:
    """Return the server that leads alpha's stream, once the other servers have all of its messages."""
    try:
        cluster = (await (await world.jetstream()).stream_info("alpha")).cluster
    except UNREACHABLE:
        return None
    if cluster is None or cluster.leader is None:
        return None
    are_current = [each.current for each in cluster.replicas or []]
    return int(cluster.leader) if are_current == [True, True] else None


@pytest.mark.proof
async def test_whichever_server_dies_each_event_is_on_the_stream_once_and_has_one_effect(
    world: World, cluster: Cluster
) -> None:
    await world.relay()
    await world.inbox()
    count = 0
    for _ in range(2):
        await world.publish(*numbered(200, count))
        await eventually(world.consumed(count + 200), "beta consumes 200 notes", _DEADLINE_SECONDS)
        leader = await eventually(
            lambda: leader_of_current_replicas(world), "all servers have the notes", _DEADLINE_SECONDS
        )
        publishing = asyncio.create_task(world.publish(*numbered(200, count + 200)))
        cluster.kill(leader)
        await publishing
        count += 400
        await eventually(world.consumed(count), "beta consumes what was published meanwhile", _DEADLINE_SECONDS)
        cluster.start(leader)

    assert sorted(await world.effects()) == sorted(texts(count))
    await eventually(world.published_count(count), "every note is acknowledged", _DEADLINE_SECONDS)
    assert await world.published() == list(enumerate(texts(count), start=1))
    assert await world.stream() == await world.published()
