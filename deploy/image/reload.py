"""Runs `admitone ARGUMENTS…` and restarts it whenever a file of the package changes: for development in containers."""

import importlib.util
import signal
import subprocess
import sys
import threading
from pathlib import Path

_POLL_SECONDS = 0.5


def newest(folder: Path) -> float:
    """Return the modification time of the newest file in a folder."""
    return max(file.stat().st_mtime for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


def main(arguments: list[str]) -> int:
    spec = importlib.util.find_spec("admitone")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    while not stopping.is_set():
        seen = newest(folder)
        with subprocess.Popen(["admitone", *arguments]) as program:
            # A program that ended by itself is restarted at the next change.
            while newest(folder) == seen and not stopping.wait(_POLL_SECONDS):
                pass
            program.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
