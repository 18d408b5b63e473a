"""The data folder: everything one installation stores on this machine. One process owns it at a time."""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from admitone.local.errors import FolderInUse, FolderNotUsable


@dataclass(frozen=True)
class DataFolder:
    """A data folder; `open_data_folder` makes this process its owner."""

    path: Path

    def secret(self, name: str, generate: Callable[[], str] = lambda: secrets.token_urlsafe(32)) -> str:
        """Return the secret of that name, generated on first use.

        Each secret is a file of its own (0600), so that a service can be given exactly the ones it needs.
        """
        file = self.path / "secrets" / name
        if file.exists():
            return file.read_text()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        value = generate()
        # Written to a second file and renamed: a crash leaves the whole secret or none.
        draft = file.with_name(f"{file.name}.new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(value)
            out.flush()
            os.fsync(out.fileno())
        draft.rename(file)
        return value


@contextmanager
def open_data_folder(path: Path) -> Iterator[DataFolder]:
    """Lock the data folder for this process, creating it (0700) if it does not exist.

    The lock keeps two servers off one store: nats-server takes no lock of its own, and two of them on one folder
    silently lose acknowledged messages. The lock's holder may therefore treat every server process that still uses the
    folder as left behind by a dead parent. The operating system drops the lock when its holder dies, even if it is
    killed. Raises FolderInUse or FolderNotUsable.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise FolderNotUsable(path, error.strerror or str(error)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUse(path, os.read(descriptor, 20).decode().strip()) from error
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield DataFolder(path)
    finally:
        os.close(descriptor)
