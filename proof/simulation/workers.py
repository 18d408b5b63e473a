"""Where seeds run: a PostgreSQL without durability, and worker processes with databases of their own on it."""

import logging
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from admitone.local.postgres import Postgres
from proof.simulation.databases import WorkerDatabases
from proof.simulation.mutants import MUTANTS
from proof.simulation.run import Outcome, run_seed

_SEEDS_AT_ONCE = 10


@contextmanager
def running_postgres() -> Iterator[str]:
    """Run a PostgreSQL without durability, in memory where there is room; yield its URL."""
    memory = Path("/dev/shm")  # noqa: S108 – a folder of our own is made in it
    parent = memory if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**31 else None
    folder = Path(tempfile.mkdtemp(prefix="admitone-simulation-", dir=parent))
    folder.chmod(0o711)
    server = Postgres(folder / "postgres", "simulation-password", durable=False)
    try:
        server.start()
        yield server.url()
    finally:
        server.stop()
        shutil.rmtree(folder)


_databases: WorkerDatabases | None = None


def _begin(url: str) -> None:
    logging.disable(logging.CRITICAL)  # in a world of faults everything is logged all the time
    global _databases  # noqa: PLW0603 – one for each worker process
    _databases = WorkerDatabases(url, f"sim{os.getpid()}")
    _databases.open()


def _run(seeds: Sequence[int]) -> list[Outcome]:
    assert _databases is not None
    return [run_seed(seed, _databases) for seed in seeds]


def _pool(url: str, jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(url,)
    )


def run_seeds(url: str, seeds: Sequence[int], jobs: int) -> Iterator[Outcome]:
    """Run seeds in worker processes; yield each outcome, in the order of the seeds."""
    chunks = [seeds[start : start + _SEEDS_AT_ONCE] for start in range(0, len(seeds), _SEEDS_AT_ONCE)]
    with _pool(url, jobs) as pool:
        for outcomes in pool.map(_run, chunks):
            yield from outcomes


def first_catch(name: str, seeds: Sequence[int], databases: WorkerDatabases) -> tuple[int, str] | None:
    """Return the first of these seeds that catches a mutant, and the violation."""
    with MUTANTS[name](databases):
        for seed in seeds:
            if violations := run_seed(seed, databases).violations:
                return seed, violations[0]
    return None


def _hunt(name: str, seeds: Sequence[int]) -> tuple[int, str] | None:
    assert _databases is not None
    return first_catch(name, seeds, _databases)


def hunt(url: str, names: Sequence[str], seeds_max: int, jobs: int) -> Iterator[tuple[str, tuple[int, str] | None]]:
    """Run each mutant until a seed catches it; yield its name, and the seed and the violation if one did."""
    with _pool(url, jobs) as pool:
        hunts = {pool.submit(_hunt, name, range(seeds_max)): name for name in names}
        for done in as_completed(hunts):
            yield hunts[done], done.result()
