"""The whole marketplace as people start it, `admitone up`, for tests to use and to kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from admitone.local.server import command_line, free_port, read_pid
from tests.engines import wait_until

ROOT = Path(__file__).parents[1]
PASSWORD = "eleven-brass-owls"
SERVERS = ("postgres", "nats", "sandbox")


@dataclass
class Up:
    """One `admitone up`, once it said that it is ready."""

    program: subprocess.Popen[str]
    folder: Path
    port: int
    said: str
    seconds: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pid(self, name: str) -> int:
        """The process id of one of its servers, or of a service under `processes/`."""
        pid = read_pid(self.folder / f"{name}.pid")
        assert pid is not None, f"no {name} runs"
        return pid

    def pids(self) -> list[int]:
        files = [*self.folder.glob("*.pid"), *self.folder.glob("processes/*.pid")]
        return [pid for file in files if (pid := read_pid(file)) is not None]

    def kill_server(self, name: str) -> None:
        """Kill one server and return when it is back."""
        killed = self.pid(name)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: self.pid(name) != killed, f"{name} is started again")

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        """Ask it to stop and return its exit code."""
        self.program.send_signal(how)
        said, _ = self.program.communicate(timeout=60)
        self.said += said
        return self.program.returncode

    def kill(self) -> None:
        """Kill the parent alone, and wait until its children followed it."""
        children = self.pids()
        self.program.kill()
        self.program.communicate()
        wait_until(lambda: not any(map(command_line, children)), "the children follow their parent", 30)

    @contextmanager
    def person(self, name: str) -> Iterator[httpx.Client]:
        """A signed-in client; somebody who signed up before signs in."""
        with httpx.Client(base_url=self.url, timeout=10) as client:
            body = {"email": f"{name}@example.com", "password": PASSWORD}
            if client.post("/api/users/signup", json=body).status_code != 201:
                client.post("/api/users/signin", json=body).raise_for_status()
            yield client

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run another `admitone` command against it."""
        return run(*words, ADMITONE_DATA=str(self.folder), **environ)


def _environ(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ADMITONE_", "STRIPE_"))}
    return inherited | more


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run an `admitone` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "admitone", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=_environ(**environ),
        timeout=60,
    )


def begun(folder: Path, *words: str, port: int | None = None, **environ: str) -> subprocess.Popen[str]:
    """Begin an `admitone up` without waiting for it."""
    told = _environ(ADMITONE_DATA=str(folder), ADMITONE_PORT=str(port or free_port()), **environ)
    return subprocess.Popen(
        [sys.executable, "-m", "admitone", "up", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=told,
    )


@contextmanager
def running_up(folder: Path, *words: str, port: int | None = None, **environ: str) -> Iterator[Up]:
    """An `admitone up` on a data folder that is ready for people; stopped at the end unless the test did."""
    port = port or free_port()
    began = time.monotonic()
    with begun(folder, *words, port=port, **environ) as program:
        up = Up(program, folder, port, "", 0)
        try:
            assert program.stdout is not None
            for line in program.stdout:
                up.said += line
                if line.startswith("Ctrl-C"):
                    break
            else:
                raise AssertionError(up.said)
            up.seconds = time.monotonic() - began
            yield up
        finally:
            if program.poll() is None:
                up.stop(signal.SIGTERM)


def missing(up: Up, path: str, ids: Sequence[str]) -> list[str]:
    """Return which of these things the marketplace does not know any more."""
    with httpx.Client(base_url=up.url, timeout=10) as client:
        return [each for each in ids if client.get(f"{path}/{each}").status_code != 200]
