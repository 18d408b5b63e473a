"""Where seeds are run: a PostgreSQL without durability, and worker processes with databases of their own on it."""

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
from proof.simulation.engine import Engine
from proof.simulation.mutants import MUTANTS
from proof.simulation.run import Outcome, run_seed

_SEEDS_AT_ONCE = 10


@contextmanager
def running_postgres() -> Iterator[str]:
    """A PostgreSQL without durability, in memory where there is room; yields its URL."""
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


_engine: Engine | None = None


def _begin(url: str) -> None:
    logging.disable(logging.CRITICAL)  # in a world of faults everything is said all the time
    global _engine  # noqa: PLW0603 – one engine a worker process
    _engine = Engine(url, f"sim{os.getpid()}")
    _engine.open()


def _run(seeds: Sequence[int]) -> list[Outcome]:
    assert _engine is not None
    return [run_seed(seed, _engine) for seed in seeds]


def run_seeds(url: str, seeds: Sequence[int], jobs: int) -> Iterator[Outcome]:
    """Run seeds in worker processes; yield each outcome, in the order of the seeds."""
    chunks = [seeds[start : start + _SEEDS_AT_ONCE] for start in range(0, len(seeds), _SEEDS_AT_ONCE)]
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawning, initializer=_begin, initargs=(url,)) as pool:
        for outcomes in pool.map(_run, chunks):
            yield from outcomes


def _hunt(name: str, first: int, last: int) -> tuple[int, str] | None:
    """Return the first of these seeds that catches a mutant, and what it saw."""
    assert _engine is not None
    with MUTANTS[name](_engine):
        for seed in range(first, last):
            if violations := run_seed(seed, _engine).violations:
                return seed, violations[0]
    return None


def hunt(
    url: str, names: Sequence[str], seeds_max: int, jobs: int
) -> Iterator[tuple[str, int, str] | tuple[str, None, str]]:
    """Look for each mutant until a seed catches it; yield its name, the seed, and what was seen."""
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawning, initializer=_begin, initargs=(url,)) as pool:
        hunts = {pool.submit(_hunt, name, 0, seeds_max): name for name in names}
        for hunted in as_completed(hunts):
            caught = hunted.result()
            yield (hunts[hunted], *caught) if caught is not None else (hunts[hunted], None, "")
