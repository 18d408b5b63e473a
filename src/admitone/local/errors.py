"""Errors of the machine, with messages for the person at the terminal.

LocalError
├── FolderInUse        another `admitone` process holds the data folder
├── FolderNotUsable    the data folder cannot be created or written
├── ServerMissing      no usable server program is installed
└── ServerFailed       a server did not start
"""

from pathlib import Path


class LocalError(Exception):
    """The embedded servers cannot run here."""


class FolderInUse(LocalError):
    def __init__(self, path: Path, pid: str) -> None:
        owner = f"by process {pid}" if pid else "by another process"
        super().__init__(
            f"The data folder {path} is in use {owner}. Stop that one first, or set ADMITONE_DATA to another folder."
        )


class FolderNotUsable(LocalError):
    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"The data folder {path} cannot be used: {reason}.")


class ServerMissing(LocalError):
    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"{server} cannot be started here: {reason}.")


class ServerFailed(LocalError):
    def __init__(self, server: str, reason: str, log: Path, last_lines: str) -> None:
        output = f" Its last output:\n{last_lines}" if last_lines else ""
        super().__init__(f"{server} did not start: {reason}. Its log is {log}.{output}")
