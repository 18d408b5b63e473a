"""A server program as a child process: started, watched, restarted when it dies, and stopped with its parent."""

import asyncio
import fcntl
import functools
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
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
    """The account a program runs as: the current user, another account, or a user namespace (`wrapper`)."""

    account: str | None = None
    group: int | None = None
    wrapper: tuple[str, ...] = ()


CURRENT_USER = ProcessIdentity()


class Server(ABC):
    """One server on one folder.

    Only the holder of the data folder's lock may start it. Call `start` and `watch` from the main thread: Linux sends
    the signal that ends the child with its parent when the *thread* that spawned it ends.
    """

    name: str
    stop_signal: ClassVar[signal.Signals]
    start_seconds_max: ClassVar[float]
    """How long recovery after a crash may take before a start counts as failed."""
    stop_seconds_max: ClassVar[float] = 30.0

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """`folder` belongs to this server alone; without a `port`, the server takes a free one and keeps it."""
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
        """Create what the program needs before its first start; leave an existing store alone."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command line. It names a path in `folder`, by which a process left behind is recognised."""

    @abstractmethod
    def _ready(self) -> bool:
        """Return whether *our* child serves; another server that answers on the same port does not count."""

    def _identity(self) -> ProcessIdentity:
        return CURRENT_USER

    def _environment(self) -> Mapping[str, str]:
        return {}

    def _take_ports(self) -> None:
        self._port = self._fixed_port or free_port()

    def _ports(self) -> list[int]:
        return [self.port]

    def start(self) -> None:
        """Start the server and return when it serves. Raises ServerFailed."""
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
        raise self._ended_at_once()

    def stop(self) -> None:
        """Stop the server and wait for its end. Idempotent."""
        if self._child is None:
            return
        child, self._child = self._child, None
        for number, seconds in (
            (self.stop_signal, self.stop_seconds_max),
            (signal.SIGQUIT, 5.0),
            (signal.SIGKILL, 5.0),
        ):
            if child.poll() is None:
                child.send_signal(number)
            try:
                child.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                log.warning("%s does not stop", self.name, extra={"pid": child.pid, "signal": number.name})
        self.pid_file.unlink(missing_ok=True)

    async def watch(self) -> None:
        """Restart the server, on the same port, whenever it dies or is stuck.

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
                        log.error("%s is stuck and is killed", self.name, extra={"pid": self.pid})
                        self._child.kill()
                continue
            log.warning("%s ended and is restarted", self.name, extra={"status": self._child.returncode})
            await asyncio.sleep(backoff_seconds)
            began = time.monotonic()
            self._spawn()
            while self.is_alive() and not self._ready():  # noqa: ASYNC110 – another program offers no event to wait for
                await asyncio.sleep(POLL_SECONDS)
            if self.is_alive():
                backoff_seconds = 0.0
                log.warning("%s serves again", self.name, extra={"seconds": round(time.monotonic() - began, 3)})
            else:
                backoff_seconds = min(max(0.1, backoff_seconds * 2), BACKOFF_SECONDS_MAX)

    async def _is_stuck(self) -> bool:
        """Return whether the running server reports a state that only a restart ends."""
        return False

    def _spawn(self) -> None:
        assert threading.current_thread() is threading.main_thread(), "children are tied to the thread that starts them"
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_BYTES_MAX:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        with self.log_file.open("ab") as out:
            identity = self._identity()
            self._child = subprocess.Popen(  # noqa: S603 – our own command, without a shell
                # `setpriv` comes after the wrapper: a change of identity would clear the parent-death signal.
                [*identity.wrapper, *parent_death_prefix(self.stop_signal), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # Ctrl-C must reach only the parent, so that services finish before their database stops.
                start_new_session=True,
                **popen_options(identity, self._environment()),
            )
        self.pid_file.write_text(f"{self._child.pid}\n")

    def _stop_leftover(self) -> None:
        """Stop the server that a killed parent left running on this folder."""
        pid = read_pid(self.pid_file)
        if pid is None or str(self.folder) not in command_line(pid):
            return
        log.warning("stopping a %s that an earlier run left behind", self.name, extra={"pid": pid})
        for number, seconds in ((self.stop_signal, self.stop_seconds_max), (signal.SIGKILL, 5.0)):
            os.kill(pid, number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if not command_line(pid):
                    return
                time.sleep(POLL_SECONDS)
        raise self._failure(f"process {pid}, left by an earlier run, does not stop")

    def _ended_at_once(self) -> ServerFailed:
        taken = [port for port in self._ports() if not is_free(port)]
        return self._failure(f"port {taken[0]} is taken by another program" if taken else "it ended at once")

    def _failure(self, reason: str) -> ServerFailed:
        lines = self.log_file.read_text(errors="replace").splitlines() if self.log_file.exists() else []
        return ServerFailed(self.name, reason, self.log_file, "\n".join(lines[-8:]))


class PopenOptions(TypedDict):
    cwd: str
    env: dict[str, str]
    user: str | None
    group: int | None
    extra_groups: list[int] | None


def popen_options(identity: ProcessIdentity, environment: Mapping[str, str] | None = None) -> PopenOptions:
    """Return options under which a child inherits neither the caller's folder nor its language or time zone."""
    return {
        "cwd": "/",
        "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **(environment or {})},
        "user": identity.account,
        "group": identity.group,
        "extra_groups": None if identity.account is None else [],
    }


_reserved_ports: set[int] = set()


def free_port() -> int:
    """Return a free port, reserved for this process until it ends.

    No other process of this user that takes its ports here gets the same one, whether or not a server listens on it
    yet. A program that takes its ports elsewhere still can; `Server.start` then takes another port.
    """
    while True:
        port = secrets.choice(PORTS)
        if port in _reserved_ports:
            continue
        try:
            fcntl.lockf(_port_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except BlockingIOError:
            continue
        _reserved_ports.add(port)
        if is_free(port):
            return port


@functools.cache
def _port_locks() -> int:
    """Return the file whose byte N is locked by the process that port N is reserved for.

    It stays open until the process ends: closing it would drop every lock. Child processes do not inherit locks.
    """
    file = Path(tempfile.gettempdir()) / f"admitone-ports-{os.getuid()}.lock"
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


@functools.cache
def parent_death_prefix(end_with: signal.Signals) -> list[str]:
    """Return the start of a command line under which Linux ends the child when its parent dies, even if killed.

    Empty where that does not exist (macOS, an old util-linux): there the next start stops what was left behind.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    prefix = [setpriv, "--pdeathsig", end_with.name.removeprefix("SIG")]
    return prefix if succeeds([*prefix, "true"]) else []


def succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603 – our own command


def read_pid(file: Path) -> int | None:
    """Return the process id on the file's first line, if there is one."""
    try:
        return int(file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def command_line(pid: int) -> str:
    """Return the command line of a process; empty if it has ended or is a zombie."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            return ""
    listed = subprocess.run(  # noqa: S603 – our own command
        ["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return "" if "<defunct>" in listed.stdout else listed.stdout.strip()
