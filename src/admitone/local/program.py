"""One of our own programs as a child process: a service by itself, or the payment sandbox."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from admitone.local.server import LOOPBACK, POLL_SECONDS, STARTS_MAX, Server, free_port

# Variables of ours that the child does not inherit: it gets its own settings, and no other service's secrets.
_OURS = ("ADMITONE_", "STRIPE_", "NATS_URL")


class Program(Server):
    """`python -m ARGUMENTS…`, configured by `environment`; its port is passed as ADMITONE_PORT.

    The program writes its process id to its ready file as soon as it serves.
    """

    stop_signal = signal.SIGTERM
    start_seconds_max: ClassVar[float] = 60.0

    def __init__(self, folder: Path, name: str, arguments: Sequence[str], port: int | None = None) -> None:
        super().__init__(folder, port)
        self.name = name
        self.environment: Mapping[str, str] = {}
        self._arguments = arguments

    def take_port(self) -> str:
        """Choose the port before the start and return the program's URL, so that other programs can be given it."""
        self._fixed_port = free_port()
        return f"http://{LOOPBACK}:{self._fixed_port}"

    async def start_async(self) -> None:
        """Start and return when the program serves; other programs can start at the same time. Raises ServerFailed."""
        self._stop_leftover()
        self._prepare()
        for _ in range(STARTS_MAX):
            self._take_ports()
            self._spawn()
            while self.is_alive():
                if self._ready():
                    return
                await asyncio.sleep(POLL_SECONDS)
        raise self._ended_at_once()

    def _prepare(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _environment(self) -> Mapping[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        return {**inherited, **self.environment, "ADMITONE_PORT": str(self.port)}

    @property
    def _ready_file(self) -> Path:
        return self.folder / "ready"

    def _command(self) -> list[str]:
        self._ready_file.unlink(missing_ok=True)
        return [sys.executable, "-m", *self._arguments, "--ready-file", str(self._ready_file)]

    def _ready(self) -> bool:
        return self._ready_file.exists() and self._ready_file.read_text() == str(self.pid)


def write_ready_file(file: Path | None) -> None:
    """Report to the parent, if there is one, that this process serves."""
    if file is not None:
        draft = file.with_suffix(".new")
        draft.write_text(str(os.getpid()))
        draft.rename(file)
