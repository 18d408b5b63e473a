"""A program that runs one server on a data folder, for tests to kill: `parent.py FOLDER postgres|nats`."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from admitone.local.errors import LocalError
from admitone.local.folder import DataFolder, open_data_folder
from admitone.local.nats import Nats
from admitone.local.postgres import Postgres
from admitone.local.server import Server
from tests.engines import ADMIN

SERVERS: dict[str, Callable[[DataFolder], Server]] = {
    "postgres": lambda folder: Postgres(folder.path / "postgres", folder.secret("postgres")),
    "nats": lambda folder: Nats(folder.path / "nats", [ADMIN]),
}


def main(folder: DataFolder, kind: str) -> None:
    server = SERVERS[kind](folder)
    server.start()
    print(server.pid, server.port, flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    try:
        with open_data_folder(Path(sys.argv[1])) as data:
            main(data, sys.argv[2])
    except LocalError as error:
        sys.exit(str(error))
