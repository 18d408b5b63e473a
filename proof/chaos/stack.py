"""The marketplace that is broken: one `admitone up --processes`, its processes, its servers, the links between."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import msgspec

from admitone import registry
from admitone.invariants import Sources, provider_at
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.settings import Settings
from admitone.local import environ
from admitone.local.folder import Folder
from admitone.local.installation import found_running
from admitone.local.postgres import Postgres
from admitone.local.program import Program
from admitone.local.provision import Database
from admitone.local.server import LOOPBACK, free_port, read_pid
from proof.chaos.detour import OPERATOR, TOLD, Clocked, Ports, at_port
from proof.chaos.disks import Disk, NoDisk
from proof.chaos.links import Link

SERVICES: Final = tuple(each.name for each in registry.SERVICES)
STORED: Final = tuple(each.name for each in registry.SERVICES if each.has_database)
TWIN: Final = "orders"
"""The service with a second replica: both hear, one relays, and the other takes over."""

_POSTGRES_DISK_MEGABYTES: Final = 768
_NATS_DISK_MEGABYTES: Final = 512
_READY_SECONDS_MAX: Final = 90.0
_AGAIN_SECONDS: Final = 0.02


@dataclass
class Stack:
    """A running marketplace on a folder of its own."""

    folder: Path
    window_seconds: int
    port: int = field(default_factory=free_port)
    links: dict[tuple[str, str], Link] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    _up: "subprocess.Popen[bytes] | None" = None
    _twin: Program | None = None
    _watching: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        self.ports = Ports(
            postgres=free_port(),
            nats=free_port(),
            provider=free_port(),
            databases={name: free_port() for name in STORED},
            buses={name: free_port() for name in SERVICES},
            to_provider=free_port(),
        )
        # The second replica has ways of its own, by which its relay can be told from the first one's.
        self.twin_ports = {"postgres": free_port(), "nats": free_port()}
        self.origin = f"http://{LOOPBACK}:{self.port}"

    # Begin and end.

    async def open(self) -> None:
        """Make the links and the small disks, and start everything."""
        for name in STORED:
            self._link(name, "postgres", self.ports.databases[name])
        for name in SERVICES:
            self._link(name, "nats", self.ports.buses[name])
        self._link("payments", "provider", self.ports.to_provider)
        self._link("twin", "postgres", self.twin_ports["postgres"])
        self._link("twin", "nats", self.twin_ports["nats"])
        for link in self.links.values():
            await link.open()
        self._mount_disks()
        await self.start()
        await self._tune()

    def _link(self, service: str, target: str, port: int) -> None:
        to = {"postgres": self.ports.postgres, "nats": self.ports.nats, "provider": self.ports.provider}[target]
        self.links[service, target] = Link(f"{service} to {target}", port, to, is_postgres=target == "postgres")

    def _mount_disks(self) -> None:
        """Put both engines' folders on small disks; PostgreSQL's is made first, because it is renamed into place."""
        secrets = Folder(self.folder)
        server = Postgres(self.folder / "postgres", secrets.secret("database_superuser"))
        server.start()
        server.stop()
        (self.folder / "nats").mkdir(mode=0o700)
        for name, megabytes in (("postgres", _POSTGRES_DISK_MEGABYTES), ("nats", _NATS_DISK_MEGABYTES)):
            disk = Disk(self.folder / name, megabytes)
            try:
                disk.mount()
            except NoDisk as reason:
                self.skipped.append(f"full disk of {name}: {reason}")
            else:
                self.disks[name] = disk

    async def start(self) -> None:
        """Start the marketplace on its folder and wait until every service is ready."""
        with (self.folder / "up.log").open("ab") as out:
            self._up = subprocess.Popen(
                # The last words are how other commands know a running marketplace by.
                [sys.executable, "-m", "proof.chaos.detour", "admitone", "up"],
                env=self._environ() | {TOLD: msgspec.json.encode(self.ports).decode()},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        await self._until_ready()
        await self._start_twin()

    def _environ(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ADMITONE_", "STRIPE_"))}
        return inherited | {
            "ADMITONE_DATA": str(self.folder),
            "ADMITONE_PORT": str(self.port),
            "ADMITONE_ORDER_WINDOW_SECONDS": str(self.window_seconds),
            "ADMITONE_LOG_LEVEL": "WARNING",
        }

    async def _until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS_MAX
        async with httpx.AsyncClient(base_url=self.origin, timeout=3, trust_env=False) as client:
            while True:
                assert self._up is not None
                assert self._up.poll() is None, (self.folder / "up.log").read_text()[-4000:]
                try:
                    if (await client.get("/health/ready")).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the marketplace is not ready after {_READY_SECONDS_MAX:.0f} s")
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _start_twin(self) -> None:
        settings = self._settings()
        urls = dict.fromkeys(SERVICES, self.origin)
        ways = {
            f"ADMITONE_{TWIN.upper()}_DATABASE_URL": at_port(settings.database_url(TWIN), self.twin_ports["postgres"]),
            f"ADMITONE_{TWIN.upper()}_NATS_URL": at_port(settings.nats_url(TWIN), self.twin_ports["nats"]),
        }
        self._twin = Clocked(self.folder / "processes" / "twin", "twin", ["serve", TWIN])
        self._twin.told = environ.for_service(registry.named([TWIN])[0], settings, urls) | ways
        await self._twin.begin()
        self._watching = asyncio.create_task(self._twin.watch())

    async def _tune(self) -> None:
        """Keep PostgreSQL's log of changes small enough for its small disk."""
        async with self.connected("postgres") as connection:
            for setting in ("max_wal_size = '128MB'", "min_wal_size = '32MB'", "wal_recycle = off"):
                await connection.execute(f"ALTER SYSTEM SET {setting}")
            await connection.execute("SELECT pg_reload_conf()")

    async def close(self) -> None:
        """Stop everything, the servers last, and give the disks back."""
        await self._stop_twin()
        if self._up is not None and self._up.poll() is None:
            self._up.send_signal(signal.SIGINT)
            await asyncio.to_thread(self._up.wait, 60)
        for link in self.links.values():
            await link.close()
        for disk in self.disks.values():
            disk.unmount()

    async def _stop_twin(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        if self._twin is not None:
            await asyncio.to_thread(self._twin.stop)
            self._twin = None

    # Processes.

    def has_ended(self) -> bool:
        """Whether the process that is to watch over all others is gone."""
        return self._up is None or self._up.poll() is not None

    def pid(self, name: str) -> int:
        """Return the process id of a service, of the `twin`, or of `postgres`, `nats`, `sandbox`."""
        place = self.folder if name in {"postgres", "nats", "sandbox"} else self.folder / "processes"
        pid = read_pid(place / f"{name}.pid")
        assert pid is not None, f"no {name} runs"
        return pid

    def kill(self, name: str) -> None:
        self.signal(name, signal.SIGKILL)

    def signal(self, name: str, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself, or by another fault, a moment ago
            os.kill(self.pid(name), number)

    def kill_below(self, name: str, number: int) -> bool:
        """Kill a process that a server has started; return whether there was one of that number.

        A server in a process namespace of its own would call it by another number, and it is left alone.
        """
        children = Path(f"/proc/{self.pid(name)}/task/{self.pid(name)}/children").read_text().split()
        if str(number) not in children:
            return False
        os.kill(number, signal.SIGKILL)
        return True

    async def kill_everything(self) -> None:
        """Kill every process at once, and start the marketplace again as whoever watches over the machine would."""
        assert self._up is not None
        if self._watching is not None:
            self._watching.cancel()
        self._up.kill()
        for name in (*SERVICES, "twin", "sandbox", "nats", "postgres"):
            self.kill(name)
        await asyncio.to_thread(self._up.wait)
        await self._stop_twin()
        await self.start()

    def own_port(self, name: str) -> int:
        """Return the port on which a service itself listens, behind the public one."""
        for each in Path(f"/proc/{self.pid(name)}/environ").read_bytes().split(b"\0"):
            if each.startswith(b"ADMITONE_PORT="):
                return int(each.partition(b"=")[2])
        raise ProcessLookupError(name)

    async def relay_holder(self) -> str:
        """Return which of the two replicas has the relay's lock: the `twin` or the service."""
        async with self.connected(TWIN) as connection:
            port = await connection.fetchval(
                """
                SELECT client_port FROM pg_locks JOIN pg_stat_activity USING (pid)
                WHERE locktype = 'advisory' AND granted AND application_name = 'relay' AND datname = current_database()
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                """
            )
        return "twin" if port is not None and self.links["twin", "postgres"].leads_from(port) else TWIN

    # What is on the bus's disk.

    @property
    def _store(self) -> Path:
        return self.folder / "nats" / "store"

    def wipe_bus(self) -> None:
        """Take the store away from a NATS that stands still, and kill that: the next one finds nothing."""
        self._exchange_store(None)

    def copy_bus(self) -> Path:
        """Keep a copy of the store as it is at this instant."""
        copy = self.folder / "older-store"
        shutil.rmtree(copy, ignore_errors=True)
        self.signal("nats", signal.SIGSTOP)
        try:
            if self._store.exists():
                shutil.copytree(self._store, copy)
        finally:
            self.signal("nats", signal.SIGCONT)
        return copy

    def restore_bus(self, copy: Path) -> None:
        """Put an older copy in the store's place."""
        self._exchange_store(copy)

    def _exchange_store(self, copy: Path | None) -> None:
        self.signal("nats", signal.SIGSTOP)
        taken = self._store.with_name("taken-away")
        if self._store.exists():
            self._store.rename(taken)
        if copy is not None and copy.exists():
            shutil.copytree(copy, self._store)
        self.kill("nats")
        shutil.rmtree(taken, ignore_errors=True)

    # Clocks.

    def set_clock(self, service: str, seconds: int) -> None:
        """Let a service's clock go wrong by so much, from now on."""
        file = self.folder / "clocks" / service
        file.parent.mkdir(exist_ok=True)
        draft = file.with_suffix(".new")
        draft.write_text(f"{seconds:+d}")
        draft.replace(file)

    # Looking.

    def _settings(self) -> Settings:
        settings = found_running(self.folder)
        assert settings is not None
        return settings

    def _server_url(self, name: str) -> str:
        secrets = Folder(self.folder)
        superuser = Database(
            "postgres", secrets.secret("database_superuser"), secrets.secret("database_superuser")
        ).url(f"postgresql://{LOOPBACK}:{self.ports.postgres}/")
        if name == "postgres":
            return superuser
        return Database(name, secrets.secret(f"database_{name}"), "").url(superuser)

    @asynccontextmanager
    async def connected(self, name: str) -> "AsyncIterator[asyncpg.Connection[Any]]":
        """Connect to a service's database without any detour; `postgres` is for the superuser."""
        connection = await asyncpg.connect(self._server_url(name), timeout=5, command_timeout=30)
        try:
            yield connection
        finally:
            connection.terminate()

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """Connect to the bus as somebody who may do everything."""
        bus = Bus(OPERATOR)
        password = Folder(self.folder).secret(f"bus_{OPERATOR}")
        bus.start(f"nats://{OPERATOR}:{password}@{LOOPBACK}:{self.ports.nats}")
        try:
            async with asyncio.timeout(5):
                await bus.ready()
            yield bus
        finally:
            await bus.close()

    def sources(self, *, with_provider: bool = False) -> Sources:
        """Return where the checker asks: the databases themselves, and the books of the payment sandbox."""
        key = f"sk_test_{Folder(self.folder).secret('sandbox_key')}"
        provider = provider_at(f"http://{LOOPBACK}:{self.ports.provider}", key) if with_provider else None
        return Sources({name: self._server_url(name) for name in STORED}, registry.SERVICES, provider)

    def heal(self) -> None:
        """Take off every fault that would stay by itself."""
        for link in self.links.values():
            link.heal()
        for name in (*SERVICES, "twin", "nats", "postgres", "sandbox"):
            self.signal(name, signal.SIGCONT)
        for disk in self.disks.values():
            disk.free()
        for name in (*SERVICES, "twin"):
            self.set_clock(name, 0)
