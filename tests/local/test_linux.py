"""What only Linux has: user ids borrowed in namespaces, limits laid on a running server. Not collected elsewhere."""

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
from admitone.local.postgres import has_name
from admitone.local.server import command_line
from tests.engines import wait_until
from tests.local.conftest import Parent


def looking_like(uid: int) -> tuple[str, ...]:
    """Command words that run a program under that user id, without needing an account that may read our files."""
    return ("unshare", "--user", f"--map-user={uid}", f"--map-group={uid}")


def test_an_ordinary_user_needs_nothing_special(start_parent: Callable[..., Parent]) -> None:
    parent = start_parent("postgres", wrapper=looking_like(pwd.getpwnam("daemon").pw_uid))
    assert "/bin/postgres" in command_line(parent.server_pid)


def test_a_user_id_without_an_account_will_do(start_parent: Callable[..., Parent]) -> None:
    nameless = next(uid for uid in range(10_001, 60_000) if not has_name(uid))
    parent = start_parent("postgres", wrapper=looking_like(nameless))
    assert "/bin/postgres" in command_line(parent.server_pid)


def test_where_namespaces_are_forbidden_root_hands_the_store_to_nobody(
    start_parent: Callable[..., Parent], path_with: Callable[..., dict[str, str]], folder: Path
) -> None:
    parent = start_parent("postgres", environ=path_with("setpriv", "true"))
    owner = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    assert Path(f"/proc/{parent.server_pid}").owner() == owner
    assert (folder / "installation" / "postgres").owner() == owner
    parent.kill()
    wait_until(lambda: not command_line(parent.server_pid), "the leash holds for nobody too")
    # A store that is nobody's stays so, even where namespaces are allowed again.
    assert Path(f"/proc/{start_parent('postgres').server_pid}").owner() == owner


async def unheard(_error: Exception) -> None:
    """The client's losing and finding its server again is not the test's question."""


async def test_a_server_whose_disk_was_full_takes_events_again(start_nats: Callable[..., Nats]) -> None:
    """NATS stays closed after a failed write until it is started again. A limit on files stands for the full disk."""
    server = start_nats()
    watching = asyncio.create_task(server.watch())
    client = await nats.connect(server.url("admin"), error_cb=unheard)
    bus = client.jetstream()
    await bus.add_stream(name="orders", subjects=["events.orders.>"])
    await bus.publish("events.orders.OrderCreated", b"held")
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, 1))
    with pytest.raises(nats.errors.TimeoutError):
        await bus.publish("events.orders.OrderCreated", b"refused by the disk", timeout=0.5)
    async with asyncio.timeout(15):
        while True:
            try:
                await bus.publish("events.orders.OrderCreated", b"held again", timeout=0.5)
                break
            except nats.errors.Error:
                await asyncio.sleep(0.01)
    assert (await bus.get_msg("orders", 1)).data == b"held"
    await client.close()
    watching.cancel()
