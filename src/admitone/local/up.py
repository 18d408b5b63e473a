"""A whole marketplace on this machine: servers, databases, services, one public address, and their orderly end."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, NoReturn

import uvloop

from admitone.kernel import logs
from admitone.kernel.migrations import migrate
from admitone.kernel.runner import bound, cancel_on_signals, listen, serve
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings
from admitone.local import environ
from admitone.local.folder import opened
from admitone.local.installation import Installation, note_running
from admitone.local.program import Program
from admitone.local.provision import provision
from admitone.local.proxy import Proxy
from admitone.local.server import Server

Say = Callable[[str], None]

_LOG_BYTES_MAX: Final = 50_000_000


def up(
    settings: Settings,
    services: Sequence[Service],
    *,
    new_signing_key: Callable[[], str],
    processes: bool = False,
    verbose: bool = False,
    say: Say,
) -> None:
    """Run everything until SIGINT or SIGTERM, then stop everything, the servers last.

    `say` writes to the terminal. Raises LocalError, PortTaken, or OSError for an address that is not ours.
    """
    began = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError), ExitStack() as stack:
        signal.signal(signal.SIGTERM, _interrupt)
        folder = stack.enter_context(opened(Path(settings.data).expanduser().absolute()))
        public = stack.enter_context(bound(settings.host, settings.port))
        log_file = None if verbose else _log_file(folder.path)
        logs.configure(settings.log_level, log_file)
        say(f"AdmitOne, data in {folder.path}\n\n")

        installation = Installation(folder, settings, services)
        postgres, nats = installation.postgres(), installation.nats()
        servers: list[Server] = [each for each in (postgres, nats) if each is not None]
        # Before the loop runs, because starting a server blocks until it serves.
        for server in servers:
            stack.callback(server.stop)
            with _step(say, server.name):
                server.start()
        uvloop.run(
            _Marketplace(
                installation,
                installation.resolved(postgres, nats, new_signing_key),
                server_url=postgres.url() if postgres else "",
                servers=servers,
                public=public,
                log_file=log_file,
                began=began,
                say=say,
            ).run(processes=processes)
        )
    say("Stopped.\n")


class _Marketplace:
    """What runs between the start of the servers and their end."""

    def __init__(
        self,
        installation: Installation,
        settings: Settings,
        *,
        server_url: str,
        servers: Sequence[Server],
        public: socket.socket,
        log_file: Path | None,
        began: float,
        say: Say,
    ) -> None:
        self._installation = installation
        self._services = installation.services
        self._settings = settings
        self._server_url = server_url
        self._servers = servers
        self._public = public
        self._log_file = log_file
        self._began = began
        self._say = say

    async def run(self, *, processes: bool) -> None:
        """Serve until a signal comes; everything started here is stopped here."""
        cancel_on_signals()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(_watched(self._servers))
            if self._installation.databases:
                with _step(self._say, "databases"):
                    await provision(self._server_url, self._installation.databases)
            with _step(self._say, "migrations"):
                await self._migrate()
            if self._installation.wants_sandbox:
                with _step(self._say, "payment sandbox"):
                    sandbox = self._installation.sandbox(self._settings)
                    await stack.enter_async_context(_running([sandbox]))
                    self._settings = self._installation.paying_to(sandbox.url, self._settings)
            if processes:
                await self._serve_apart()
            else:
                await self._serve_together()

    async def _migrate(self) -> None:
        urls = {**self._settings.database_urls, **self._settings.migrator_urls}
        wanted = [each.name for each in self._services if each.has_database]
        await asyncio.gather(*(migrate(urls[name], name) for name in wanted))

    async def _serve_together(self) -> None:
        """Serve every service in this process."""
        starting = time.monotonic()

        async def ready() -> None:
            self._say(_done("services", starting))
            self._say_ready()

        await serve(self._services, self._settings, on_ready=ready, on_stopping=self._say_stopping, public=self._public)

    async def _serve_apart(self) -> None:
        """Serve every service in a process of its own, and only a proxy in this one."""
        folder = self._installation.folder.path / "processes"
        programs = [Program(folder / each.name, each.name, ["serve", each.name]) for each in self._services]
        urls = {each.name: each.take_port() for each in programs}
        for each in programs:
            each.tell(environ.for_service(each.name, self._settings, urls))
        operations = [each for service in self._services for each in service.operations]
        with _step(self._say, f"{len(programs)} services"):
            running = await self._stack.enter_async_context(_running(programs))
        async with _running(programs), Proxy(urls, operations, self._settings) as proxy:
            await listen(proxy, self._public, self._settings, on_ready=self._say_ready, on_stopping=proxy.stopping)
