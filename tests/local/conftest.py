"""Parent processes of servers, for tests to kill."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from admitone.local.server import command_line
from tests.engines import wait_until


def has_ipv6() -> bool:
    """Whether this machine has the IPv6 loopback address; some containers have none."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


collect_ignore = [] if sys.platform == "linux" else ["test_linux.py"]
collect_ignore += [] if has_ipv6() else ["test_ipv6.py"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Parent:
    program: subprocess.Popen[str]
    server_pid: int
    server_port: int

    def kill(self) -> None:
        """Kill only the parent, not its server."""
        self.program.kill()
        self.program.wait()

    def end(self) -> None:
        self.kill()
        if command_line(self.server_pid):
            os.kill(self.server_pid, signal.SIGINT)
            wait_until(lambda: not command_line(self.server_pid), "the server ends")


@pytest.fixture
def start_parent(folder: Path) -> Iterator[Callable[..., Parent]]:
    """Start `parent.py` on the test's folder, with a wrapping command if one is given."""
    with ExitStack() as running:

        def start(kind: str, *, wrapper: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> Parent:
            program = running.enter_context(
                subprocess.Popen(
                    [*wrapper, sys.executable, "-m", "tests.local.parent", str(folder / "installation"), kind],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                    env=os.environ | (environment or {}),
                )
            )
            running.callback(program.kill)
            assert program.stdout is not None
            line = program.stdout.readline()
            if not line:
                _, output = program.communicate()
                raise AssertionError(output)
            pid, port = line.split()
            parent = Parent(program, int(pid), int(port))
            running.callback(parent.end)
            return parent

        yield start


@pytest.fixture
def path_of_only(folder: Path) -> Callable[..., dict[str, str]]:
    """An environment in which only the named programs are found."""

    def make(*names: str) -> dict[str, str]:
        (folder / "bin").mkdir()
        for name in names:
            if found := shutil.which(name):
                (folder / "bin" / name).symlink_to(found)
        return {"PATH": str(folder / "bin")}

    return make
