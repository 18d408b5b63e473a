"""What can go wrong on this machine before or beside the services, in words for the person at the terminal.

LocalError
├── FolderInUse        another `admitone` has the data folder
├── FolderNotUsable    it cannot be made or written
├── ServerMissing      no usable server program is installed
└── ServerFailed       a server did not start
"""

from pathlib import Path


class LocalError(Exception):
    """The embedded servers cannot run here."""


class FolderInUse(LocalError):
    def __init__(self, path: Path, pid: str) -> None:
        who = f"by process {pid}" if pid else "by another process"
        super().__init__(
            f"The data folder {path} is in use {who}. Stop that one first, or set ADMITONE_DATA to another folder."
        )


class FolderNotUsable(LocalError):
    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"The data folder {path} cannot be used: {reason}.")


class ServerMissing(LocalError):
    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"{server} cannot be started here: {reason}.")


class ServerFailed(LocalError):
    def __init__(self, server: str, reason: str, log: Path, last_lines: str) -> None:
        said = f" It said:\n{last_lines}" if last_lines else ""
        super().__init__(f"{server} did not start: {reason}. Its log is {log}.{said}")
