"""A server program as a child of ours: started, watched, started again when it dies, stopped when we stop."""

import asyncio
import functools
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypedDict

from admitone.local.errors import ServerFailed

LOOPBACK = "127.0.0.1"
STARTS_MAX = 4
POLL_SECONDS = 0.01
BACKOFF_SECONDS_MAX = 5.0
HEALTH_SECONDS = 2.0
LOG_BYTES_MAX = 10_000_000

# Below the range from which Linux and macOS take the local ports of outgoing connections: a client that keeps trying
# a port inside that range while its server is down can, by chance, connect to itself and so keep the server out.
PORTS = range(15_000, 32_000)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProcessIdentity:
    """As whom a program runs: ourselves, another account, or ourselves in a user namespace of its own."""

    account: str | None = None
    group: int | None = None
    wrapper: tuple[str, ...] = ()


OURSELVES = ProcessIdentity()


class Server(ABC):
    """One server on one folder.

    Only the holder of the data folder's lock may start it. Call `start` and `watch` from the main thread: the signal
    that ends the child when we are killed is sent when the *thread* that spawned it ends.
    """

    name: str
    stop_signal: ClassVar[signal.Signals]
    start_seconds_max: ClassVar[float]
    """How long recovery after a crash may take before a start counts as failed."""
    stop_seconds_max: ClassVar[float] = 30.0

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """`folder` is the server's own; without a `port` a free one is taken and kept until `stop`."""
        self.folder = folder.absolute()
        self.log_file = self.folder.with_suffix(".log")
        self.pid_file = self.folder.with_suffix(".pid")
        self._fixed_port = port
        self._port: int | None = port
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        assert self._port is not None, f"{self.name} has no port before it is started"
        return self._port

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.name} has no process before it is started"
        return self._child.pid

    def is_alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @abstractmethod
    def _prepare(self) -> None:
        """Make what the program needs before its first start; leave an existing store alone."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The command line. It names something in `folder`, by which a leftover of ours is known again."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether *our* child serves; a foreign server that answers on the same port does not count."""

    def _identity(self) -> ProcessIdentity:
        return OURSELVES

    def _environ(self) -> Mapping[str, str]:
        """What the program is told by its environment."""
        return {}

    def _take_ports(self) -> None:
        self._port = self._fixed_port or free_port()

    def _ports(self) -> list[int]:
        return [self.port]

    def start(self) -> None:
        """Start the server and return when it serves. Raises `ServerFailed`."""
        self._stop_leftover()
        self._prepare()
        for attempt in range(1, STARTS_MAX + 1):
            if attempt > 1:
                time.sleep(0.2)
            self._take_ports()
            self._spawn()
            deadline = time.monotonic() + self.start_seconds_max
            while self.is_alive() and time.monotonic() < deadline:
                if self._ready():
                    return
                time.sleep(POLL_SECONDS)
            if self.is_alive():
                self.stop()
                raise self._failure(f"it was not ready after {self.start_seconds_max:.0f} s")
        taken = [port for port in self._ports() if not is_free(port)]
        raise self._failure(f"port {taken[0]} is taken by another program" if taken else "it ended at once")

    def stop(self) -> None:
        """Stop the server and wait until it is gone. Idempotent."""
        if self._child is None:
            return
        child, self._child = self._child, None
        for how, seconds in ((self.stop_signal, self.stop_seconds_max), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            if child.poll() is None:
                child.send_signal(how)
            try:
                child.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                log.warning("%s does not stop", self.name, extra={"pid": child.pid, "signal": how.name})
        self.pid_file.unlink(missing_ok=True)

    async def watch(self) -> None:
        """Start the server again, on the same port, whenever it dies or is stuck.

        Runs until cancelled; cancel it before `stop`.
        """
        backoff_seconds = 0.0
        health_due = 0.0
        while True:
            await asyncio.sleep(POLL_SECONDS * 5)
            if self._child is None:
                continue
            if self.is_alive():
                if time.monotonic() >= health_due:
                    health_due = time.monotonic() + HEALTH_SECONDS
                    if await self._is_stuck():
                        log.error("%s is stuck, ending it", self.name, extra={"pid": self.pid})
                        self._child.kill()
                continue
            log.warning("%s ended, starting it again", self.name, extra={"status": self._child.returncode})
            await asyncio.sleep(backoff_seconds)
            began = time.monotonic()
            self._spawn()
            while self.is_alive() and not self._ready():  # noqa: ASYNC110 - another program gives us no event
                await asyncio.sleep(POLL_SECONDS)
            if self.is_alive():
                backoff_seconds = 0.0
                log.warning("%s serves again", self.name, extra={"seconds": round(time.monotonic() - began, 3)})
            else:
                backoff_seconds = min(max(0.1, backoff_seconds * 2), BACKOFF_SECONDS_MAX)

    async def _is_stuck(self) -> bool:
        """Whether the running server says of itself that only a new start will help."""
        return False

    def _spawn(self) -> None:
        assert threading.current_thread() is threading.main_thread(), "children are tied to the thread that starts them"
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_BYTES_MAX:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        with self.log_file.open("ab") as out:
            identity = self._identity()
            self._child = subprocess.Popen(  # noqa: S603 - a command of ours, without a shell
                # The leash comes last: taking on another identity would take it off.
                [*identity.wrapper, *leash(self.stop_signal), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # Not the terminal's: Ctrl-C there must reach us alone, so that services finish before their database.
                start_new_session=True,
                **surroundings(identity, self._environ()),
            )
        self.pid_file.write_text(f"{self._child.pid}\n")

    def _stop_leftover(self) -> None:
        """Stop what an earlier parent of ours left running on this folder when it was killed."""
        pid = read_pid(self.pid_file)
        if pid is None or str(self.folder) not in command_line(pid):
            return
        log.warning("stopping a %s that an earlier run left behind", self.name, extra={"pid": pid})
        for how, seconds in ((self.stop_signal, self.stop_seconds_max), (signal.SIGKILL, 5.0)):
            os.kill(pid, how)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if not command_line(pid):
                    return
                time.sleep(POLL_SECONDS)
        raise self._failure(f"process {pid}, left by an earlier run, does not stop")

    def _failure(self, reason: str) -> ServerFailed:
        lines = self.log_file.read_text(errors="replace").splitlines() if self.log_file.exists() else []
        return ServerFailed(self.name, reason, self.log_file, "\n".join(lines[-8:]))


class Surroundings(TypedDict):
    cwd: str
    env: dict[str, str]
    user: str | None
    group: int | None
    extra_groups: list[int] | None


def surroundings(identity: ProcessIdentity, environ: Mapping[str, str] | None = None) -> Surroundings:
    """What a program of ours finds around it: nothing of the caller's folder, language or time zone."""
    return {
        "cwd": "/",
        "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **(environ or {})},
        "user": identity.account,
        "group": identity.group,
        "extra_groups": None if identity.account is None else [],
    }


def free_port() -> int:
    """A port that nobody listens on now. Somebody may take it before we do: `Server.start` then takes another."""
    while True:
        port = secrets.choice(PORTS)
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


@functools.cache
def leash(end_with: signal.Signals) -> list[str]:
    """Command words that make Linux end the child when we die, even of kill -9; empty where that does not exist.

    Where it is missing (macOS, an old util-linux) the next start stops what was left behind.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    words = [setpriv, "--pdeathsig", end_with.name.removeprefix("SIG")]
    return words if succeeds([*words, "true"]) else []


def succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603 - our own words


def read_pid(file: Path) -> int | None:
    """The process id on the file's first line, if there is one."""
    try:
        return int(file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def command_line(pid: int) -> str:
    """The words a process was started with; empty when it is gone, a zombie included."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            return ""
    listed = subprocess.run(  # noqa: S603 - our own words
        ["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return "" if "<defunct>" in listed.stdout else listed.stdout.strip()
