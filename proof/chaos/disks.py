"""A small disk for one server's folder, which can be filled to the last byte and freed again."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

_FILLER: Final = "filler"


class CannotMount(Exception):
    """Only root may mount a file system, and not on every machine"""


class Disk:
    """A file system in memory, mounted on an existing folder whose content is moved onto it."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self._size = f"{megabytes}m"

    def mount(self) -> None:
        """Raises CannotMount."""
        if os.getuid() != 0:
            raise CannotMount("only root may mount a small disk")
        aside = self.folder.with_name(f"{self.folder.name}.aside")
        self.folder.rename(aside)
        self.folder.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", str(self.folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            self.folder.rmdir()
            aside.rename(self.folder)
            raise CannotMount(mounted.stderr.strip())
        subprocess.run(["cp", "-a", f"{aside}/.", str(self.folder)], check=True)
        shutil.rmtree(aside)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def fill(self) -> None:
        """Take all the space there is."""
        file = os.open(self.folder / _FILLER, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            taken = os.fstat(file).st_size
            while (free := self._free_bytes()) > 0:
                try:
                    os.posix_fallocate(file, taken, free)
                except OSError:
                    return  # another program was faster with the last of it
                taken += free
        finally:
            os.close(file)

    def free(self) -> None:
        (self.folder / _FILLER).unlink(missing_ok=True)

    def _free_bytes(self) -> int:
        state = os.statvfs(self.folder)
        return state.f_bavail * state.f_frsize
