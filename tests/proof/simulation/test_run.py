"""The marketplace lived through from seeds: whatever goes wrong, nothing is sold twice and nothing is lost."""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from admitone.kernel import clock, ids
from admitone.local.postgres import Postgres
from proof.simulation.engine import Engine
from proof.simulation.mutants import MUTANTS
from proof.simulation.run import run_seed

SEEDS = 500
PARTS = 10
# One in which much goes wrong.
ROUGH_SEED = 79


@pytest.fixture(scope="module")
def engine(postgres: Postgres) -> Iterator[Engine]:
    """Databases of this worker, emptied before each seed."""
    logging.disable(logging.CRITICAL)
    opened = Engine(postgres.url(), "simulated")
    opened.open()
    try:
        yield opened
    finally:
        opened.close()
        logging.disable(logging.NOTSET)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_breaks_an_invariant(engine: Engine, part: int) -> None:
    seeds = range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS)
    broken = {
        f"python -m proof.simulation --seed {seed}": violations
        for seed in seeds
        if (violations := run_seed(seed, engine).violations)
    }
    assert broken == {}


def test_the_same_seed_gives_the_same_trace(engine: Engine) -> None:
    first, second = run_seed(ROUGH_SEED, engine), run_seed(ROUGH_SEED, engine)
    assert first.trace_hash == second.trace_hash
    assert sum(first.faults.values()) > 0


def test_the_same_seed_gives_the_same_trace_in_another_process(engine: Engine) -> None:
    replayed = subprocess.run(
        [sys.executable, "-m", "proof.simulation", "--seed", str(ROUGH_SEED)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert replayed.stdout.splitlines()[-1].split()[0] == run_seed(ROUGH_SEED, engine).trace_hash


def test_time_and_clocks_are_given_back(engine: Engine) -> None:
    run_seed(0, engine)
    assert abs(clock.now().timestamp() - time.time()) < 60
    assert ids.new_id() != ids.new_id()

    async def on_a_loop_of_its_own() -> bool:
        return asyncio.get_running_loop().is_running()

    assert asyncio.run(on_a_loop_of_its_own())


@pytest.mark.parametrize("name", ["the lock is given although the price changed", "the relay goes by the last number"])
def test_a_missing_defence_is_noticed(engine: Engine, name: str) -> None:
    with MUTANTS[name](engine):
        assert any(run_seed(seed, engine).violations for seed in range(60))
