"""`python -m proof.simulation`: run the marketplace through seeds, and prove that missing defences are noticed."""

import argparse
import os
import signal
import sys
import time
from collections import Counter

from proof.simulation.databases import WorkerDatabases
from proof.simulation.mutants import MUTANTS
from proof.simulation.run import Outcome, run_seed
from proof.simulation.workers import hunt, run_seeds, running_postgres


def _seeds(text: str) -> range:
    first, _, end = text.partition("-")
    return range(int(first), int(end)) if end else range(int(first))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proof.simulation", description=__doc__)
    parser.add_argument("seeds", help="how many seeds, or the first one and the one after the last: 20000 or 500-1000")
    parser.add_argument("--seed", action="store_true", help="run the one seed SEEDS and print its whole trace")
    parser.add_argument("--mutants", action="store_true", help="remove one defence after another, SEEDS tries each")
    parser.add_argument("--only", default="", help="only mutants whose name contains one of these, comma-separated")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that PostgreSQL is stopped and its folder removed
    with running_postgres() as url:
        if arguments.mutants:
            return _mutants(url, int(arguments.seeds), arguments.jobs, arguments.only)
        if arguments.seed:
            return _replay(url, int(arguments.seeds))
        return _run(url, _seeds(arguments.seeds), arguments.jobs)


def _mutants(url: str, seeds_max: int, jobs: int, only: str) -> int:
    names = [name for name in MUTANTS if any(part in name for part in only.split(","))]
    survivors = 0
    for name, caught in hunt(url, names, seeds_max, jobs):
        survivors += caught is None
        print(f"{name:<72} {f'seed {caught[0]}  {caught[1][:90]}' if caught else 'NOT CAUGHT'}", flush=True)
    print(f"{len(names) - survivors} of {len(names)} caught within {seeds_max} seeds")
    return 1 if survivors else 0


def _replay(url: str, seed: int) -> int:
    databases = WorkerDatabases(url, "replay")
    databases.open()
    try:
        outcome = run_seed(seed, databases, keeps_log=True)
    finally:
        databases.close()
    print("\n".join(outcome.log or ()))
    for violation in outcome.violations:
        print("VIOLATION", violation)
    print(outcome.trace_hash, dict(outcome.faults), f"{outcome.purchases} of {outcome.orders} orders paid")
    return 1 if outcome.violations else 0


def _run(url: str, seeds: range, jobs: int) -> int:
    """Run seeds and print the total of all, or of those that were run before an interruption."""
    total = Total(seeds.start)
    try:
        for outcome in run_seeds(url, seeds, jobs):
            total.add(outcome)
            if outcome.violations:
                print(f"seed {outcome.seed}: {outcome.violations[0]}")
                print(f"  replay: python -m proof.simulation --seed {outcome.seed}", flush=True)
            if total.seeds % 500 == 0:
                print(f"… {total}", file=sys.stderr, flush=True)
    finally:
        for kind, count in sorted(total.faults.items()):
            print(f"  {kind:<40} {count:>9,}")
        print(total)
    return 1 if total.failed else 0


class Total:
    """The sum of many outcomes."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._began = time.monotonic()
        self.seeds = self.failed = 0
        self.faults: Counter[str] = Counter()
        self._orders = self._purchases = self._statements = 0

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.failed += bool(outcome.violations)
        self.faults.update(outcome.faults)
        self._orders += outcome.orders
        self._purchases += outcome.purchases
        self._statements += outcome.statements

    def __str__(self) -> str:
        return (
            f"seeds {self._first} to {self._first + self.seeds - 1}: {self.faults.total():,} faults, "
            f"{self._orders:,} orders, {self._purchases:,} purchases, {self.failed} seeds with violations; "
            f"{self._statements / max(self.seeds, 1):.0f} statements per seed, "
            f"{self.seeds / (time.monotonic() - self._began):.1f} seeds/s"
        )


if __name__ == "__main__":
    sys.exit(main())
