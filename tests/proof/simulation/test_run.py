"""The simulated marketplace: no seed sells a ticket twice or loses anything, and a seed can be repeated."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from admitone.kernel import clock, ids
from proof.simulation.databases import WorkerDatabases
from proof.simulation.run import run_seed

SHORT_SEEDS = 30
SEEDS = 500
PARTS = 10
# A seed in which much goes wrong.
ROUGH_SEED = 79


def violations(databases: WorkerDatabases, seeds: range) -> dict[str, list[str]]:
    """Return the violations of each seed that has some, by the command that repeats it."""
    found = {f"python -m proof.simulation --seed {seed}": run_seed(seed, databases).violations for seed in seeds}
    return {command: violated for command, violated in found.items() if violated}


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_the_first_seeds_violate_no_invariant(simulated: WorkerDatabases) -> None:
    assert violations(simulated, range(SHORT_SEEDS)) == {}


@pytest.mark.proof
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_seed_violates_an_invariant(simulated: WorkerDatabases, part: int) -> None:
    assert violations(simulated, range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS)) == {}


def test_the_same_seed_gives_the_same_trace(simulated: WorkerDatabases) -> None:
    first, second = run_seed(ROUGH_SEED, simulated), run_seed(ROUGH_SEED, simulated)
    assert first.trace_hash == second.trace_hash
    assert first.faults.total() > 0


@pytest.mark.proof
def test_the_same_seed_gives_the_same_trace_in_another_process(simulated: WorkerDatabases) -> None:
    replayed = subprocess.run(
        [sys.executable, "-m", "proof.simulation", "--seed", str(ROUGH_SEED)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert replayed.stdout.splitlines()[-1].split()[0] == run_seed(ROUGH_SEED, simulated).trace_hash


def test_clocks_and_ids_are_restored(simulated: WorkerDatabases) -> None:
    run_seed(0, simulated)
    assert abs(clock.now().timestamp() - time.time()) < 60
    assert ids.new_id() != ids.new_id()

    async def on_an_ordinary_loop() -> bool:
        return asyncio.get_running_loop().is_running()

    assert asyncio.run(on_an_ordinary_loop())
