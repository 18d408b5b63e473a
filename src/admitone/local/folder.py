"""The data folder: everything one installation keeps on this machine, with one owner at a time."""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from admitone.local.errors import FolderInUse, FolderNotUsable


@dataclass(frozen=True)
class Folder:
    """A data folder that is ours for as long as `opened` lasts."""

    path: Path

    def secret(self, name: str, make: Callable[[], str] = lambda: secrets.token_urlsafe(32)) -> str:
        """The secret of that name, made on first use and the same ever after.

        Each is a file of its own (0600), so that a service can be given exactly the ones it needs.
        """
        file = self.path / "secrets" / name
        if file.exists():
            return file.read_text()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        value = make()
        # Written aside and renamed: a crash leaves the whole secret or none, never the first half of one.
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
def opened(path: Path) -> Iterator[Folder]:
    """Take the data folder for ourselves, making it (0700) if it is not there.

    The lock is what keeps two servers off one store: nats-server itself takes none, and two of them on one folder
    lose acknowledged messages without a word. Whoever holds the lock may therefore take every server process that
    still uses the folder for the leftover of a dead parent. The kernel drops the lock when its holder dies, however
    it dies. Raises `FolderInUse` or `FolderNotUsable`.
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
        yield Folder(path)
    finally:
        os.close(descriptor)
