"""The whole marketplace as `admitone up` runs it, for tests to use and to kill."""

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
    """One `admitone up` that is ready. `output` is what it has printed."""

    program: subprocess.Popen[str]
    folder: Path
    port: int
    output: str
    seconds: float
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def pid(self, name: str) -> int:
        """Return the process id of one of its servers, or of a service under `processes/`."""
        pid = read_pid(self.folder / f"{name}.pid")
        assert pid is not None, f"no {name} runs"
        return pid

    def pids(self) -> list[int]:
        files = [*self.folder.glob("*.pid"), *self.folder.glob("processes/*.pid")]
        return [pid for file in files if (pid := read_pid(file)) is not None]

    def kill_server(self, name: str) -> None:
        """Kill one server and return when it is restarted."""
        killed = self.pid(name)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: self.pid(name) != killed, f"{name} is restarted")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.program.send_signal(number)
        output, _ = self.program.communicate(timeout=60)
        self.output += output
        return self.program.returncode

    def kill(self) -> None:
        """Kill only the parent, and wait until its children have ended."""
        children = self.pids()
        self.program.kill()
        self.program.communicate()
        wait_until(lambda: not any(map(command_line, children)), "the children end with their parent", 30)

    @contextmanager
    def person(self, name: str) -> Iterator[httpx.Client]:
        """Yield a client that is signed in; sign the person up first if necessary."""
        with httpx.Client(base_url=self.url, timeout=10) as client:
            body = {"email": f"{name}@example.com", "password": PASSWORD}
            if client.post("/api/users/signup", json=body).status_code != 201:
                client.post("/api/users/signin", json=body).raise_for_status()
            yield client

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run another `admitone` command against it."""
        return run(*arguments, ADMITONE_DATA=str(self.folder), **environment)


def _environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ADMITONE_", "STRIPE_"))}
    return inherited | more


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an `admitone` command and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", "admitone", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=_environment(**environment),
        timeout=60,
    )


def start_up(folder: Path, *arguments: str, port: int | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start an `admitone up` without waiting until it is ready."""
    return subprocess.Popen(
        [sys.executable, "-m", "admitone", "up", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=_environment(ADMITONE_DATA=str(folder), ADMITONE_PORT=str(port or free_port()), **environment),
    )


@contextmanager
def running_up(folder: Path, *arguments: str, port: int | None = None, **environment: str) -> Iterator[Up]:
    """Run an `admitone up` that is ready, and stop it at the end unless the test did."""
    port = port or free_port()
    began = time.monotonic()
    with start_up(folder, *arguments, port=port, **environment) as program:
        up = Up(program, folder, port, "", 0)
        try:
            assert program.stdout is not None
            for line in program.stdout:
                up.output += line
                if line.startswith("Ctrl-C"):
                    break
            else:
                raise AssertionError(up.output)
            up.seconds = time.monotonic() - began
            yield up
        finally:
            if program.poll() is None:
                up.stop(signal.SIGTERM)


def missing(up: Up, path: str, ids: Sequence[str]) -> list[str]:
    """Return which of these ids the marketplace does not find."""
    with httpx.Client(base_url=up.url, timeout=10) as client:
        return [each for each in ids if client.get(f"{path}/{each}").status_code != 200]
