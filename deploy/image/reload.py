"""Runs `admitone WORDS…` and starts it again whenever a file of the package changes: for development in containers."""
# ruff: noqa: INP001 – a script beside what it makes, not a package

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

_LOOK_EVERY_SECONDS = 0.5


def newest(folder: Path) -> float:
    """Return when the newest file of a folder was changed."""
    return max(file.stat().st_mtime for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


def main(words: list[str]) -> int:
    spec = importlib.util.find_spec("admitone")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    stopping = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while not stopping:
        seen = newest(folder)
        with subprocess.Popen(["admitone", *words]) as program:  # noqa: S603, S607 – what the pod was told to run
            # A program that ended by itself waits for the change that mends it.
            while not stopping and newest(folder) == seen:
                time.sleep(_LOOK_EVERY_SECONDS)
            program.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
