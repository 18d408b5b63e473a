"""Features of Linux: user ids mapped in namespaces, limits of a running server. Not collected elsewhere."""

import asyncio
import os
import pwd
import resource
from collections.abc import Callable
from pathlib import Path

import nats
import nats.errors
import pytest

from admitone.local.nats import Nats
from admitone.local.postgres import has_account
from admitone.local.server import command_line
from tests.engines import wait_until
from tests.local.conftest import Parent


def mapped_to(uid: int) -> tuple[str, ...]:
    """Return a command prefix that runs a program with another user id, but with our rights on files."""
    return ("unshare", "--user", f"--map-user={uid}", f"--map-group={uid}")


def test_postgresql_runs_as_an_ordinary_user(start_parent: Callable[..., Parent]) -> None:
    parent = start_parent("postgres", wrapper=mapped_to(pwd.getpwnam("daemon").pw_uid))
    assert "/bin/postgres" in command_line(parent.server_pid)


def test_postgresql_runs_for_a_user_id_without_an_account(start_parent: Callable[..., Parent]) -> None:
    unknown = next(uid for uid in range(10_001, 60_000) if not has_account(uid))
    parent = start_parent("postgres", wrapper=mapped_to(unknown))
    assert "/bin/postgres" in command_line(parent.server_pid)


def test_without_namespaces_root_gives_the_store_to_nobody(
    start_parent: Callable[..., Parent], path_of_only: Callable[..., dict[str, str]], folder: Path
) -> None:
    parent = start_parent("postgres", environment=path_of_only("setpriv", "true"))
    owner = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    assert Path(f"/proc/{parent.server_pid}").owner() == owner
    assert (folder / "installation" / "postgres").owner() == owner
    parent.kill()
    wait_until(lambda: not command_line(parent.server_pid), "the server of nobody ends with its parent")
    # A store that belongs to nobody stays so, even if namespaces are allowed again.
    assert Path(f"/proc/{start_parent('postgres').server_pid}").owner() == owner


async def ignore(_error: Exception) -> None:
    """The client loses its connection when the server is restarted."""


async def test_a_server_accepts_events_again_after_its_disk_was_full(start_nats: Callable[..., Nats]) -> None:
    """After a failed write, NATS refuses events until it is restarted. A file size limit simulates the full disk."""
    server = start_nats()
    watching = asyncio.create_task(server.watch())
    client = await nats.connect(server.url("admin"), error_cb=ignore)
    bus = client.jetstream()
    await bus.add_stream(name="orders", subjects=["events.orders.>"])
    await bus.publish("events.orders.OrderCreated", b"first")
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, 1))
    with pytest.raises(nats.errors.TimeoutError):
        await bus.publish("events.orders.OrderCreated", b"refused by the disk", timeout=0.5)
    async with asyncio.timeout(15):
        while True:
            try:
                await bus.publish("events.orders.OrderCreated", b"second", timeout=0.5)
                break
            except nats.errors.Error:
                await asyncio.sleep(0.01)
    assert (await bus.get_msg("orders", 1)).data == b"first"
    await client.close()
    watching.cancel()
