"""PostgreSQL as a child process: durable, and able to start after every kind of interruption."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from admitone.local.errors import ServerFailed
from admitone.local.postgres import UNUSED_PID, Postgres
from admitone.local.server import LOOPBACK
from tests.engines import wait_until
from tests.local.conftest import ROOT


async def setting(server: Postgres, name: str) -> str:
    connection = await asyncpg.connect(server.url())
    try:
        return str(await connection.fetchval("SELECT current_setting($1)", name))
    finally:
        await connection.close()


async def test_commits_are_on_disk_when_they_are_acknowledged(folder: Path) -> None:
    server = Postgres(folder / "postgres", "secret")
    server.start()
    for name in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
        assert await setting(server, name) == "on"
    server.stop()


async def test_a_connection_needs_the_password(postgres: Postgres) -> None:
    for password in ("", "guessed"):
        with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InterfaceError)):
            await asyncpg.connect(
                host=LOOPBACK, port=postgres.port, user="postgres", password=password, database="postgres"
            )


def test_a_store_half_created_by_a_killed_start_is_created_again(folder: Path) -> None:
    creating = subprocess.Popen([sys.executable, "-m", "tests.local.parent", str(folder), "postgres"], cwd=ROOT)
    wait_until(lambda: any(folder.glob("postgres.new-*/store/PG_VERSION")), "the store is half created")
    creating.kill()
    creating.wait()
    assert not (folder / "postgres").exists()
    server = Postgres(folder / "postgres", "secret")
    server.start()
    server.stop()
    server.start()
    server.stop()
    assert not any(folder.glob("postgres.new-*"))


def test_another_process_may_have_the_process_id_of_a_dead_server(private_postgres: Postgres) -> None:
    """In a container, the same small numbers recur after every crash."""
    pid_file = private_postgres.folder / "postmaster.pid"
    os.kill(private_postgres.pid, signal.SIGKILL)
    wait_until(lambda: not private_postgres.is_alive(), "the server is dead")
    _, _, rest = pid_file.read_text().partition("\n")
    pid_file.write_text(f"{os.getpid()}\n{rest}")
    private_postgres.start()
    assert pid_file.read_text().split()[0] not in {str(os.getpid()), str(UNUSED_PID)}


def test_a_server_that_another_program_runs_on_the_store_is_left_alone(private_postgres: Postgres) -> None:
    private_postgres.pid_file.unlink()
    second = Postgres(private_postgres.folder, private_postgres.password)
    with pytest.raises(ServerFailed, match=f"process {private_postgres.pid}, not started by us"):
        second.start()
    assert private_postgres.is_alive()


def test_the_server_recovers_by_itself_when_one_of_its_processes_is_killed(private_postgres: Postgres) -> None:
    listed = subprocess.run(
        ["/bin/ps", "-o", "pid=,command=", "--ppid", str(private_postgres.pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    checkpointer = next(line.split()[0] for line in listed.stdout.splitlines() if "checkpointer" in line)
    os.kill(int(checkpointer), signal.SIGKILL)
    ready = "ready to accept connections"
    wait_until(lambda: private_postgres.log_file.read_text().count(ready) == 2, "the server recovers")
    assert private_postgres.is_alive()
