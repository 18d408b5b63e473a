"""Both servers start, survive being killed, are recognised by the next start, and leave nothing behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import nats
import nats.errors
import pytest

from admitone.local.errors import ServerFailed
from admitone.local.nats import Nats
from admitone.local.postgres import Postgres
from admitone.local.server import LOOPBACK, PORTS, Server, command_line, free_port, is_free, parent_death_prefix
from tests.engines import ADMIN, wait_until
from tests.local.conftest import Parent

PASSWORD = "postgres-password"
KINDS = ("postgres", "nats")


def make(kind: str, folder: Path, port: int | None = None) -> Server:
    if kind == "postgres":
        return Postgres(folder / "postgres", PASSWORD, port=port, durable=False)
    return Nats(folder / "nats", [ADMIN], port=port, durable=False)


async def write(server: Server) -> None:
    if isinstance(server, Postgres):
        connection = await asyncpg.connect(server.url())
        await connection.execute("CREATE TABLE ticket AS SELECT 'row 5, seat 7' AS place")
        await connection.close()
    else:
        assert isinstance(server, Nats)
        client = await nats.connect(server.url("admin"))
        await client.jetstream().add_stream(name="tickets", subjects=["events.tickets.>"])
        await client.jetstream().publish("events.tickets.TicketCreated", b"row 5, seat 7")
        await client.close()


async def read(server: Server) -> str:
    if isinstance(server, Postgres):
        connection = await asyncpg.connect(server.url())
        try:
            return str(await connection.fetchval("SELECT place FROM ticket"))
        finally:
            await connection.close()
    assert isinstance(server, Nats)
    client = await nats.connect(server.url("admin"), allow_reconnect=False, connect_timeout=1, reconnect_time_wait=0)
    try:
        message = await client.jetstream().get_msg("tickets", 1)
        return (message.data or b"").decode()
    finally:
        await client.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str, folder: Path) -> Iterator[Server]:
    server = make(kind, folder)
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def watched(server: Server) -> AsyncIterator[None]:
    watching = asyncio.create_task(server.watch())
    yield
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def retry(read: Callable[[], Awaitable[str]], seconds: float = 10.0) -> str:
    """Return what `read` returns as soon as the server responds again."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await read()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, nats.errors.Error):
                await asyncio.sleep(0.01)


async def test_data_survives_a_stop_and_a_start(server: Server, kind: str, folder: Path) -> None:
    await write(server)
    server.stop()
    again = make(kind, folder)
    again.start()
    assert await read(again) == "row 5, seat 7"
    again.stop()


def test_a_stopped_server_has_ended_and_its_port_is_free(server: Server) -> None:
    pid, port = server.pid, server.port
    server.stop()
    server.stop()
    assert command_line(pid) == ""
    assert is_free(port)


def test_the_server_listens_only_on_loopback_and_below_the_ports_of_outgoing_connections(server: Server) -> None:
    assert server.port in PORTS
    assert not is_free(server.port)
    with socket.socket() as other_address:
        other_address.bind(("127.0.0.2", server.port))


async def test_a_killed_server_is_restarted_on_its_port(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    await write(server)
    port, killed = server.port, server.pid
    async with watched(server):
        os.kill(killed, signal.SIGKILL)
        assert await retry(lambda: read(server), seconds=5) == "row 5, seat 7"
        assert server.port == port
        assert server.pid != killed
    assert f"{server.name} ended and is restarted" in caplog.messages


async def test_a_server_that_keeps_dying_is_restarted_every_time(server: Server) -> None:
    await write(server)
    async with watched(server):
        for _ in range(3):
            os.kill(server.pid, signal.SIGKILL)
            assert await retry(lambda: read(server)) == "row 5, seat 7"


def test_a_server_ends_when_its_parent_is_killed(kind: str, start_parent: Callable[..., Parent]) -> None:
    parent = start_parent(kind)
    parent.kill()
    if parent_death_prefix(signal.SIGTERM):
        wait_until(lambda: not command_line(parent.server_pid), "the server ends when its parent is killed")
    assert start_parent(kind).server_pid != parent.server_pid


def test_a_server_left_behind_is_stopped_by_the_next_start(
    kind: str, start_parent: Callable[..., Parent], path_of_only: Callable[..., dict[str, str]]
) -> None:
    # Without setpriv, as on macOS, the server does not end with its parent.
    parent = start_parent(kind, environment=path_of_only("unshare", "true"))
    parent.kill()
    assert command_line(parent.server_pid), "the server outlives its parent"
    start_parent(kind)
    assert not command_line(parent.server_pid)


def test_a_stale_pid_file_does_not_stop_another_process(kind: str, folder: Path) -> None:
    server = make(kind, folder)
    server.pid_file.write_text(f"{os.getpid()}\n")
    server.start()
    server.stop()


def test_a_port_that_another_program_took_is_replaced_by_another(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((LOOPBACK, free_port())) as other:
        taken = other.getsockname()[1]
        offered = iter([taken, free_port(), free_port(), free_port()])
        monkeypatch.setattr("admitone.local.server.free_port", lambda: next(offered))
        server = make(kind, folder)
        server.start()
        assert server.port != taken
        server.stop()


def test_another_server_of_the_same_kind_is_not_mistaken_for_ours(server: Server, kind: str, folder: Path) -> None:
    (folder / "other").mkdir()
    ours = make(kind, folder / "other", port=server.port)
    with pytest.raises(ServerFailed, match=f"port {server.port} is taken by another program"):
        ours.start()


def test_a_server_that_cannot_start_is_reported_with_its_last_output(server: Server, kind: str, folder: Path) -> None:
    server.stop()
    broken = folder / "postgres" / "PG_VERSION" if kind == "postgres" else folder / "nats" / "store" / "jetstream"
    if broken.is_dir():
        broken.rmdir()
    broken.write_text("nonsense")
    with pytest.raises(ServerFailed) as failed:
        make(kind, folder).start()
    assert "Its last output:" in str(failed.value)
    assert str(server.log_file) in str(failed.value)


TAKE_PORTS = (
    "from admitone.local.server import free_port; print(*(free_port() for _ in range(2000)), flush=True); input()"
)


def test_no_two_processes_get_the_same_free_port() -> None:
    command = [sys.executable, "-c", TAKE_PORTS]
    ours = {free_port() for _ in range(100)}
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second,
    ):
        taken = [{int(port) for port in each.stdout.readline().split()} for each in (first, second) if each.stdout]
        for each in (first, second):
            each.communicate("\n")
    assert [len(ports) for ports in taken] == [2000, 2000]
    assert not taken[0] & taken[1]
    assert not ours & (taken[0] | taken[1])


def test_a_port_is_reserved_before_and_after_its_server_runs(kind: str, folder: Path) -> None:
    server = make(kind, folder)
    server.start()
    port = server.port
    server.stop()
    assert is_free(port)
    assert port not in {free_port() for _ in range(2000)}
