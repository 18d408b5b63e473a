"""Starts a whole marketplace on this machine (servers, databases, services, one public address) and stops it."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import httpx
import uvloop

from admitone.kernel import logs
from admitone.kernel.database.migrations import migrate
from admitone.kernel.http.server import bind_socket, cancel_on_signals, listen
from admitone.kernel.http.sessions import SessionAuthority
from admitone.kernel.messaging.bus import connection_problem
from admitone.kernel.runner import serve
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings, SettingsError, url_of, value_of
from admitone.local.environment import environment_for, metrics_ports
from admitone.local.folder import open_data_folder
from admitone.local.installation import Installation, running_file
from admitone.local.program import Program
from admitone.local.provision import provision
from admitone.local.proxy import Proxy
from admitone.local.server import LOOPBACK, Server

Say = Callable[[str], None]

_LOG_BYTES_MAX: Final = 50_000_000


def up(
    settings: Settings,
    services: Sequence[Service],
    *,
    authority: SessionAuthority,
    new_signing_key: Callable[[], str],
    processes: bool = False,
    verbose: bool = False,
    say: Say,
) -> None:
    """Run everything until SIGINT or SIGTERM, then stop everything, the servers last.

    `say` writes to the terminal. Raises LocalError, CannotListen or SettingsError.
    """
    began = time.monotonic()
    _validate(settings, services)
    ports = metrics_ports(services, settings) if processes else {}
    _validate_metrics_ports(settings, ports)
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError), ExitStack() as stack:
        folder = stack.enter_context(open_data_folder(Path(settings.data).expanduser().absolute()))
        public = stack.enter_context(bind_socket(settings.host, settings.port))
        log_file = None if verbose else _log_file(folder.path)
        logs.configure(settings.log_level, log_file)
        say(f"AdmitOne with its data in {folder.path}\n\n")
        installation = Installation(folder, settings, services)
        postgres, nats = installation.postgres(), installation.nats()
        servers: list[Server] = [each for each in (postgres, nats) if each is not None]
        # Before the event loop runs, because starting a server blocks.
        for server in servers:
            stack.callback(server.stop)
            with _step(say, server.name):
                server.start()
        settings = installation.resolved(postgres, nats, new_signing_key)
        marketplace = _Marketplace(installation, settings, authority, servers, public, ports, log_file, began, say)
        uvloop.run(marketplace.run(postgres.url() if postgres else "", processes=processes))
    say("Stopped.\n")


def _validate_metrics_ports(settings: Settings, ports: Mapping[str, int]) -> None:
    """Raise SettingsError or CannotListen, before anything starts, if metrics cannot be served."""
    host, scraped = (LOOPBACK, [*ports.values()]) if ports else (settings.host, [settings.metrics_port])
    for port in filter(None, scraped):
        # Two sockets may be bound to one port until one of them listens.
        if port == settings.port:
            raise SettingsError(
                f"Port {port} cannot be for metrics and for pages: choose another ADMITONE_METRICS_PORT"
                f"{f', with {len(scraped) - 1} free ports above it' if ports else ''}"
            )
        bind_socket(host, port, setting="ADMITONE_METRICS_PORT").close()


def _validate(settings: Settings, services: Sequence[Service]) -> None:
    """Raise SettingsError before anything starts."""
    for each in services:
        for struct in each.settings:
            settings.read(struct)
        if each.name in settings.nats_urls or value_of(settings.environment, "NATS_URL"):
            settings.nats_url(each.name)


@dataclass
class _Marketplace:
    """What runs while the servers run."""

    installation: Installation
    settings: Settings
    authority: SessionAuthority
    servers: Sequence[Server]
    public: socket.socket
    metrics_ports: Mapping[str, int]
    log_file: Path | None
    began: float
    say: Say

    async def run(self, server_url: str, *, processes: bool) -> None:
        """Serve until a signal arrives."""
        stop = asyncio.Event()
        cancel_on_signals(stop)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_watched(self.servers))
            if databases := self.installation.databases:
                with _step(self.say, "databases"):
                    await provision(server_url, databases)
            with _step(self.say, "migrations"):
                await self._migrate()
            if (sandbox := self.installation.sandbox(self.settings)) is not None:
                with _step(self.say, sandbox.name):
                    await stack.enter_async_context(_running([sandbox]))
            stack.enter_context(running_file(self.settings))
            stack.push_async_callback(_cancelled, asyncio.create_task(self._say_stopping(stop)))
            await (self._serve_processes if processes else self._serve_in_process)(stop)

    async def _migrate(self) -> None:
        owners, urls = self.settings.migrator_urls, self.settings.database_urls
        names = [each.name for each in self.installation.services if each.has_database]
        await asyncio.gather(
            *(
                migrate(owners[name], name) if name in owners else migrate(urls[name], name, "DATABASE_URL")
                for name in names
            )
        )

    async def _serve_in_process(self, stop: asyncio.Event) -> None:
        """Serve every service in this process."""
        services = self.installation.services
        with ExitStack() as starting:
            starting.enter_context(_step(self.say, f"{len(services)} services"))

            async def ready() -> None:
                starting.close()
                await self._say_ready()

            await serve(services, self.settings, self.authority, on_ready=ready, stop=stop, public=self.public)

    async def _serve_processes(self, stop: asyncio.Event) -> None:
        """Serve every service in a process of its own, and run the proxy to them in this process."""
        services, settings = self.installation.services, self.settings
        folder = self.installation.folder.path / "processes"
        programs = {
            each.name: Program(folder / each.name, each.name, ["admitone", "serve", each.name]) for each in services
        }
        urls = {name: each.take_port() for name, each in programs.items()}
        for service in services:
            programs[service.name].environment = environment_for(
                service, settings, urls, self.metrics_ports.get(service.name, 0)
            )

        async with AsyncExitStack() as stack:
            with _step(self.say, f"{len(services)} services"):
                await stack.enter_async_context(_running(list(programs.values())))
            proxy = await stack.enter_async_context(
                Proxy(services, {name: httpx.URL(url) for name, url in urls.items()}, settings)
            )
            await listen(
                proxy,
                self.public,
                settings,
                on_ready=self._say_ready,
                on_stopping=proxy.stopping,
                stop=stop,
            )

    async def _say_ready(self) -> None:
        self.say(f"\nReady in {time.monotonic() - self.began:.1f} s: {self.settings.public_origin}\n")
        if self.metrics_ports:
            for name, port in self.metrics_ports.items():
                self.say(f"Metrics of {name}: {url_of(LOOPBACK, port)}/metrics\n")
        elif port := self.settings.metrics_port:
            self.say(f"Metrics: {url_of(self.settings.host, port)}/metrics\n")
        if self.log_file is not None:
            self.say(f"Log: {self.log_file}\n")
        for problem in await self._bus_problems():
            self.say(f"Warning: {problem}\n")
        self.say("Ctrl-C stops everything.\n")

    async def _bus_problems(self) -> list[str]:
        """Return what prevents connections to the operator's own bus. Services start without it, and events wait."""
        installation = self.installation
        ours = {each.name for each in installation.nats_users}
        urls = {each.name: self.settings.nats_url(each.name) for each in installation.services if each.name not in ours}
        tried = await asyncio.gather(*(connection_problem(url) for url in dict.fromkeys(urls.values())))
        return [f"{problem}. Events wait until then. Start it, or correct its URL." for problem in tried if problem]

    async def _say_stopping(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.say("\nStopping …\n")


@asynccontextmanager
async def _running(programs: Sequence[Program]) -> AsyncIterator[None]:
    """Start programs concurrently, keep them running, and stop them concurrently."""
    try:
        await asyncio.gather(*(each.start_async() for each in programs))
        async with _watched(programs):
            yield
    finally:
        await asyncio.gather(*(asyncio.to_thread(each.stop) for each in programs))


@asynccontextmanager
async def _watched(servers: Sequence[Server]) -> AsyncIterator[None]:
    """Restart each of the servers whenever it dies."""
    watching = [asyncio.create_task(each.watch()) for each in servers]
    try:
        yield
    finally:
        await asyncio.gather(*map(_cancelled, watching))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@contextmanager
def _step(say: Say, what: str) -> Iterator[None]:
    """Print what is being done, and afterwards how long it took."""
    began = time.monotonic()
    say(f"  {what:<18}")
    try:
        yield
    except BaseException:
        say("\n")
        raise
    say(f"{time.monotonic() - began:6.2f} s\n")


def _log_file(folder: Path) -> Path:
    """Return the file for this process's log; a long one is renamed first, replacing the one renamed before."""
    file = folder / "admitone.log"
    if file.exists() and file.stat().st_size > _LOG_BYTES_MAX:
        file.replace(file.with_suffix(".log.1"))
    return file


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
