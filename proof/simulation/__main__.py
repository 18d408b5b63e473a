"""The simulator's command line: `python -m proof.simulation 0-20000`, its mutants, or one seed in full."""

import argparse
import os
import signal
import sys
import time
from collections import Counter

from proof.simulation.engine import Engine
from proof.simulation.mutants import MUTANTS
from proof.simulation.run import Outcome, run_seed
from proof.simulation.workers import hunt, run_seeds, running_postgres


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last)) if last else range(int(first))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proof.simulation", description=__doc__)
    parser.add_argument("seeds", help="how many seeds, or the first and the one after the last: 20000 or 500-1000")
    parser.add_argument("--seed", action="store_true", help="take SEEDS for one seed and print its whole trace")
    parser.add_argument("--mutants", action="store_true", help="break one defence after the other, SEEDS tries each")
    parser.add_argument("--only", default="", help="only mutants with one of these, separated by commas, in their name")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or nobody would stop PostgreSQL and clean up
    with running_postgres() as url:
        if arguments.mutants:
            return _mutants(url, int(arguments.seeds), arguments.jobs, arguments.only)
        if arguments.seed:
            return _replay(url, int(arguments.seeds))
        return _many(url, _seeds(arguments.seeds), arguments.jobs)


def _mutants(url: str, seeds_max: int, jobs: int, only: str) -> int:
    names = [name for name in MUTANTS if any(part in name for part in only.split(","))]
    survivors = 0
    for name, seed, seen in hunt(url, names, seeds_max, jobs):
        survivors += seed is None
        print(f"{name:<72} {'NOT CAUGHT' if seed is None else f'seed {seed}'}  {seen[:90]}", flush=True)
    print(f"{len(names) - survivors} of {len(names)} caught within {seeds_max} seeds")
    return 1 if survivors else 0


def _replay(url: str, seed: int) -> int:
    engine = Engine(url, "replay")
    engine.open()
    try:
        outcome = run_seed(seed, engine, keeps_log=True)
    finally:
        engine.close()
    for line in outcome.log or ():
        print(line)
    print(outcome.trace_hash, dict(outcome.faults), f"{outcome.purchases} of {outcome.orders} orders paid")
    for violation in outcome.violations:
        print("VIOLATION", violation)
    return 1 if outcome.violations else 0


def _many(url: str, seeds: range, jobs: int) -> int:
    """Run seeds, and say what became of them, or of those there was time for."""
    total = _Total(seeds)
    try:
        for outcome in run_seeds(url, seeds, jobs):
            total.add(outcome)
            if total.seeds % 500 == 0:
                print(f"… {total}", file=sys.stderr, flush=True)
    finally:
        for kind, count in sorted(total.faults.items()):
            print(f"  {kind:<40} {count:>9,}")
        print(total)
    return 1 if total.failed else 0


class _Total:
    """What seeds came to so far."""

    def __init__(self, seeds: range) -> None:
        self._first = seeds.start
        self._began = time.monotonic()
        self.seeds = self.failed = 0
        self.faults: Counter[str] = Counter()
        self._orders = self._purchases = self._statements = 0

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.faults.update(outcome.faults)
        self._orders += outcome.orders
        self._purchases += outcome.purchases
        self._statements += outcome.statements
        if outcome.violations:
            self.failed += 1
            print(f"seed {outcome.seed}: {outcome.violations[0]}")
            print(f"  replay: python -m proof.simulation --seed {outcome.seed}", flush=True)

    def __str__(self) -> str:
        return (
            f"seeds {self._first} to {self._first + self.seeds - 1}: {sum(self.faults.values()):,} faults, "
            f"{self._orders:,} orders, {self._purchases:,} purchases, {self.failed} seeds with violations; "
            f"{self._statements / max(self.seeds, 1):.0f} statements a seed, "
            f"{self.seeds / (time.monotonic() - self._began):.1f} seeds/s"
        )


if __name__ == "__main__":
    sys.exit(main())
