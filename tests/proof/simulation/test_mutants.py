"""Missing defences are noticed: each mutant applies to the code as it is, and a seed catches it."""

import pytest

from proof.simulation.databases import WorkerDatabases
from proof.simulation.mutants import MUTANTS, first_catch

# One of each kind that the first seeds catch: what orders decide, money, events, releases.
QUICK = (
    "no unique index: two live orders for a ticket",
    "the money is taken before orders decide",
    "acknowledged before the commit",
    "what only another release subscribes to is acknowledged",
)
SEEDS_MAX = 300


def test_every_mutant_finds_what_it_takes_away(simulated: WorkerDatabases) -> None:
    assert len(MUTANTS) == 40
    for mutant in MUTANTS.values():
        with mutant(simulated):
            pass


@pytest.mark.proof
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", QUICK)
def test_a_missing_defence_is_noticed(simulated: WorkerDatabases, name: str) -> None:
    assert first_catch(name, range(20), simulated) is not None


@pytest.mark.proof
@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_every_missing_defence_is_noticed(simulated: WorkerDatabases, name: str) -> None:
    assert first_catch(name, range(SEEDS_MAX), simulated) is not None
