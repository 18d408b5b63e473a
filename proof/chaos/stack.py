"""The marketplace that is broken: `admitone up --processes`, a second replica, the links and disks of its servers."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from admitone.kernel.messaging.bus import Bus
from admitone.local.folder import DataFolder
from admitone.local.postgres import Postgres
from admitone.local.server import LOOPBACK, free_port, read_pid
from proof.chaos.clocks import set_clock
from proof.chaos.detour import OPERATOR, PORTS, ClockedProgram, Ports, at_port
from proof.chaos.disks import CannotMount, Disk
from proof.chaos.links import Link
from proof.marketplace import SERVICES, STORED, Marketplace

TWIN: Final = "orders"
"""The service with a second replica: both consume, one relays, and the other takes over."""
SERVERS: Final = ("postgres", "nats", "sandbox")

# Small enough to fill, large enough for a run.
_DISK_MEGABYTES: Final = {"postgres": 768, "nats": 512}


class Stack:
    """A running marketplace on a folder of its own, with everything that can be broken."""

    def __init__(self, folder: Path, hold_seconds: int) -> None:
        self.folder = folder
        self.disks: dict[str, Disk] = {}
        self.skipped: list[str] = []
        self.ports = {name: free_port() for name in ("postgres", "nats", "provider")}
        # The second replica has its own links, so that its relay can be distinguished from the first one's.
        names = [f"{each}/postgres" for each in (*STORED, "twin")] + [f"{each}/nats" for each in (*SERVICES, "twin")]
        self.links: dict[str, Link] = {}
        for name in (*names, "payments/provider"):
            server = name.partition("/")[2]
            self.links[name] = Link(free_port(), self.ports[server], is_postgres=server == "postgres")
        ports = Ports(self.ports, {name: link.port for name, link in self.links.items()})
        self.marketplace = Marketplace(
            folder,
            *("up", "--processes", "--data", str(folder)),
            module="proof.chaos.detour",
            environment={
                "ADMITONE_ORDER_WINDOW_SECONDS": str(hold_seconds),
                PORTS: msgspec.json.encode(ports).decode(),
            },
        )
        self._twin = ClockedProgram(folder / "processes" / "twin", "twin", ["admitone", "serve", TWIN])
        self._running_twin: asyncio.Task[None] | None = None

    # Start and stop.

    async def open(self) -> None:
        """Open the links, make the small disks, and start everything."""
        for link in self.links.values():
            await link.open()
        self._mount_disks()
        await self.start()
        # Keep PostgreSQL's write-ahead log small enough for its disk.
        async with self.marketplace.connected("postgres") as connection:
            for setting in ("max_wal_size = '128MB'", "min_wal_size = '32MB'", "wal_recycle = off"):
                await connection.execute(f"ALTER SYSTEM SET {setting}")
            await connection.execute("SELECT pg_reload_conf()")

    def _mount_disks(self) -> None:
        """Put both servers' folders on small disks; PostgreSQL's is made first, because it is renamed into place."""
        server = Postgres(self.folder / "postgres", DataFolder(self.folder).secret("database_superuser"))
        server.start()
        server.stop()
        (self.folder / "nats").mkdir(mode=0o700)
        for name, megabytes in _DISK_MEGABYTES.items():
            disk = Disk(self.folder / name, megabytes)
            try:
                disk.mount()
            except CannotMount as reason:
                self.skipped.append(f"full disk of {name}: {reason}")
            else:
                self.disks[name] = disk

    async def start(self) -> None:
        """Start the marketplace, and the second replica as soon as every service is ready."""
        await self.marketplace.start()
        environment = self._environment_of(TWIN)
        for name, target in (("DATABASE_URL", "postgres"), ("NATS_URL", "nats")):
            variable = f"ADMITONE_{TWIN.upper()}_{name}"
            environment[variable] = at_port(environment[variable], self.links[f"twin/{target}"].port)
        self._twin.environment = environment
        self._running_twin = asyncio.create_task(self._run_twin())

    async def _run_twin(self) -> None:
        await self._twin.start_async()
        await self._twin.watch()

    async def close(self) -> None:
        """Stop everything, the servers last, and unmount the disks."""
        await self._stop_twin()
        await self.marketplace.stop()
        for link in self.links.values():
            await link.close()
        for disk in self.disks.values():
            disk.unmount()

    async def _stop_twin(self) -> None:
        if self._running_twin is not None:
            self._running_twin.cancel()
            await asyncio.wait({self._running_twin})
        await asyncio.to_thread(self._twin.stop)

    # Processes.

    def pid(self, name: str) -> int:
        """Return the process id of a service, of the `twin`, or of a server. Raises ProcessLookupError."""
        place = self.folder if name in SERVERS else self.folder / "processes"
        pid = read_pid(place / f"{name}.pid")
        if pid is None:
            raise ProcessLookupError(f"{name} does not run")
        return pid

    def signal(self, name: str, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself, or by another fault, a moment ago
            os.kill(self.pid(name), number)

    def kill(self, name: str) -> None:
        self.signal(name, signal.SIGKILL)

    def kill_child(self, name: str, number: int) -> bool:
        """Kill a process that a server has started; return whether there was one of that number.

        A server in a process namespace of its own has other numbers; then nothing is killed.
        """
        children = Path(f"/proc/{self.pid(name)}/task/{self.pid(name)}/children").read_text().split()
        if str(number) not in children:
            return False
        os.kill(number, signal.SIGKILL)
        return True

    async def kill_everything(self) -> None:
        """Kill every process at once, and start the marketplace again as a supervisor of the machine would."""
        pids = [self.pid(name) for name in (*SERVICES, "twin", *SERVERS)]
        if self._running_twin is not None:
            self._running_twin.cancel()
        self.marketplace.kill()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.marketplace.stop()
        await self._stop_twin()
        await self.start()

    def _environment_of(self, name: str) -> dict[str, str]:
        variables = Path(f"/proc/{self.pid(name)}/environ").read_bytes().decode().split("\0")
        return dict(each.split("=", 1) for each in variables if "=" in each)

    def own_port(self, name: str) -> int:
        """Return the port on which a service itself listens, behind the public one."""
        return int(self._environment_of(name)["ADMITONE_PORT"])

    async def relay_holder(self) -> str:
        """Return which of the two replicas has the relay's lock: the `twin` or the service."""
        async with self.marketplace.connected("postgres") as connection:
            port = await connection.fetchval(
                """
                SELECT client_port FROM pg_locks JOIN pg_stat_activity USING (pid)
                WHERE locktype = 'advisory' AND granted AND application_name = 'relay' AND datname = $1
                    AND database = (SELECT oid FROM pg_database WHERE datname = $1)
                """,
                TWIN,
            )
        return "twin" if port is not None and self.links["twin/postgres"].leads_from(port) else TWIN

    # The bus.

    @property
    def _store(self) -> Path:
        return self.folder / "nats" / "store"

    def copy_bus(self) -> Path:
        """Copy the bus's store as it is at this instant."""
        copy = self.folder / "older-store"
        shutil.rmtree(copy, ignore_errors=True)
        self.signal("nats", signal.SIGSTOP)
        try:
            if self._store.exists():
                shutil.copytree(self._store, copy)
        finally:
            self.signal("nats", signal.SIGCONT)
        return copy

    def replace_bus(self, copy: Path | None) -> None:
        """Stop NATS in the middle of its work, and let the next one find an older copy of its store, or nothing."""
        self.signal("nats", signal.SIGSTOP)
        removed = self._store.with_name("removed")
        if self._store.exists():
            self._store.rename(removed)
        if copy is not None and copy.exists():
            shutil.copytree(copy, self._store)
        self.kill("nats")
        shutil.rmtree(removed, ignore_errors=True)

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """Connect to the bus as its operator."""
        bus = Bus(OPERATOR)
        password = DataFolder(self.folder).secret(f"bus_{OPERATOR}")
        bus.start(f"nats://{OPERATOR}:{password}@{LOOPBACK}:{self.ports['nats']}")
        try:
            async with asyncio.timeout(5):
                await bus.ready()
            yield bus
        finally:
            await bus.close()

    def heal(self) -> None:
        """End every fault that would stay by itself."""
        for link in self.links.values():
            link.heal()
        for name in (*SERVICES, "twin", *SERVERS):
            self.signal(name, signal.SIGCONT)
        for disk in self.disks.values():
            disk.free()
        for name in (*SERVICES, "twin"):
            set_clock(self.folder, name, 0)
