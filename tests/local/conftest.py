"""Parents of servers, as processes that a test may kill."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from admitone.local.server import command_line
from tests.engines import wait_until

collect_ignore = [] if sys.platform == "linux" else ["test_linux.py"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Parent:
    program: subprocess.Popen[str]
    server_pid: int
    server_port: int

    def kill(self) -> None:
        """Kill the parent alone; what becomes of its server is the test's question."""
        self.program.kill()
        self.program.wait()

    def end(self) -> None:
        self.kill()
        if command_line(self.server_pid):
            os.kill(self.server_pid, signal.SIGINT)
            wait_until(lambda: not command_line(self.server_pid), "the server ends")


@pytest.fixture
def start_parent(folder: Path) -> Iterator[Callable[..., Parent]]:
    """Start `parent.py` on the test's folder, under a wrapping command if one is given."""
    with ExitStack() as running:

        def start(kind: str, *, wrapper: tuple[str, ...] = (), environ: dict[str, str] | None = None) -> Parent:
            program = running.enter_context(
                subprocess.Popen(
                    [*wrapper, sys.executable, "-m", "tests.local.parent", str(folder / "installation"), kind],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                    env=os.environ | (environ or {}),
                )
            )
            running.callback(program.kill)
            assert program.stdout is not None
            line = program.stdout.readline()
            if not line:
                _, said = program.communicate()
                raise AssertionError(said)
            pid, port = line.split()
            parent = Parent(program, int(pid), int(port))
            running.callback(parent.end)
            return parent

        yield start


@pytest.fixture
def path_with(folder: Path) -> Callable[..., dict[str, str]]:
    """An environment in which no other programs are found than the named ones."""

    def make(*names: str) -> dict[str, str]:
        (folder / "bin").mkdir()
        for name in names:
            if found := shutil.which(name):
                (folder / "bin" / name).symlink_to(found)
        return {"PATH": str(folder / "bin")}

    return make
