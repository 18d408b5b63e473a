"""The limit beside our figures: what pgbench reaches with the very statement that the service uses."""

import re
import subprocess
import tempfile
from typing import Final

import asyncpg

from admitone.kernel.database.migrations import migrate
from admitone.local.postgres import binaries
from admitone.orders import store
from proof.load.filling import REPLICAS, SELLER
from proof.marketplace import Marketplace

_DATABASE: Final = "load_limit"
_TICKETS_PER_CLIENT: Final = 20_000


class Limit:
    """A database like that of orders on the same server, which only pgbench uses."""

    def __init__(self, marketplace: Marketplace) -> None:
        self._marketplace = marketplace
        self._url = f"{marketplace.superuser_url.rpartition('/')[0]}/{_DATABASE}"
        self._rounds = 0

    async def prepare(self, clients: int) -> None:
        """Make the database, with enough tickets for every client's every transaction."""
        for verb in ("DROP DATABASE IF EXISTS", "CREATE DATABASE"):
            await self._marketplace.execute("postgres", f"{verb} {_DATABASE}")
        await migrate(self._url, "orders")
        connection = await asyncpg.connect(self._url)
        try:
            await connection.execute(REPLICAS, SELLER, 0, clients * _TICKETS_PER_CLIENT, timeout=600)
            await connection.execute("VACUUM ANALYZE ticket")
        finally:
            await connection.close()

    def reserve_per_second(self, clients: int, seconds: int) -> float:
        """Return how many reservations of distinct tickets per second pgbench makes, one per statement."""
        first = self._rounds * _TICKETS_PER_CLIENT // 10
        self._rounds += 1
        number = f"(:client_id * {_TICKETS_PER_CLIENT} + {first} + :done)::bigint"
        ticket = f"ARRAY[('00000000-0000-7000-8000-' || lpad(to_hex({number}), 12, '0'))::uuid]"
        new_id, nothing = "ARRAY[uuidv7()]", "ARRAY[NULL]"
        values = [new_id, ticket, new_id, new_id, new_id, nothing, nothing, nothing, "900.0", "201", "true"]
        statement = re.sub(r"\$(\d+)", lambda found: values[int(found[1]) - 1], store._RESERVE)
        # pgbench takes a colon for the beginning of a variable, even inside a literal.
        statement = statement.replace("'awaiting:payment'", r"U&'awaiting\003Apayment'")
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write(f"\\set done :done + 1\n{' '.join(statement.split())};\n")
            script.flush()
            done = subprocess.run(
                [
                    str(binaries() / "pgbench"), "--no-vacuum", "--protocol=prepared", "--jobs=1", "--define=done=0",
                    f"--client={clients}", f"--time={seconds}", f"--file={script.name}", self._url,
                ],
                check=False, capture_output=True, text=True, timeout=seconds + 60,
            )  # fmt: skip
        found = re.search(r"tps = ([\d.]+)", done.stdout)
        assert found, done.stderr
        return float(found[1])
