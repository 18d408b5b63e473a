"""`python -m proof.simulation`: run the marketplace through seeds, and prove that missing defences are noticed."""

import argparse
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from admitone.local.postgres import Postgres
from proof.simulation.databases import WorkerDatabases
from proof.simulation.mutants import MUTANTS, first_catch
from proof.simulation.run import Outcome, run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proof.simulation", description=__doc__)
    parser.add_argument("seeds", help="how many seeds, or the first one and the one after the last: 20000 or 500-1000")
    parser.add_argument("--seed", action="store_true", help="run the one seed SEEDS and print its whole trace")
    parser.add_argument("--mutants", action="store_true", help="remove one defence after another, SEEDS tries each")
    parser.add_argument("--only", default="", help="only mutants whose name contains one of these, comma-separated")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that PostgreSQL is stopped and its folder removed
    logging.disable(logging.CRITICAL)  # in a world of faults everything is logged all the time
    with _databases() as databases:
        if arguments.mutants:
            names = [name for name in MUTANTS if any(part in name for part in arguments.only.split(","))]
            return _run_mutants(databases, names, int(arguments.seeds))
        if arguments.seed:
            return _replay(databases, int(arguments.seeds))
        first, _, end = arguments.seeds.partition("-")
        return _run(databases, range(int(first), int(end)) if end else range(int(first)))


@contextmanager
def _databases() -> Iterator[WorkerDatabases]:
    """Run a PostgreSQL without durability, in memory where there is room."""
    memory = Path("/dev/shm")  # noqa: S108 – a folder of our own is made in it
    parent = memory if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**31 else None
    folder = Path(tempfile.mkdtemp(prefix="admitone-simulation-", dir=parent))
    folder.chmod(0o711)
    server = Postgres(folder / "postgres", "simulation-password", durable=False)
    try:
        server.start()
        databases = WorkerDatabases(server.url(), "simulation")
        yield databases
        databases.close()
    finally:
        server.stop()
        shutil.rmtree(folder)


def _run_mutants(databases: WorkerDatabases, names: list[str], seeds_max: int) -> int:
    survivors = 0
    for name in names:
        caught = first_catch(name, range(seeds_max), databases)
        survivors += caught is None
        print(f"{name:<72} {f'seed {caught[0]}  {caught[1][:90]}' if caught else 'NOT CAUGHT'}", flush=True)
    print(f"{len(names) - survivors} of {len(names)} caught within {seeds_max} seeds")
    return 1 if survivors else 0


def _replay(databases: WorkerDatabases, seed: int) -> int:
    outcome = run_seed(seed, databases, keeps_log=True)
    print("\n".join(outcome.log or ()))
    for violation in outcome.violations:
        print("VIOLATION", violation)
    print(outcome.trace_hash, dict(outcome.faults), f"{outcome.purchases} of {outcome.orders} orders paid")
    return 1 if outcome.violations else 0


def _run(databases: WorkerDatabases, seeds: range) -> int:
    """Run seeds and print the total of all, or of those that were run before an interruption."""
    outcomes: list[Outcome] = []
    began = time.monotonic()
    try:
        for seed in seeds:
            outcomes.append(outcome := run_seed(seed, databases))
            if outcome.violations:
                print(f"seed {seed}: {outcome.violations[0]}\n  replay: python -m proof.simulation --seed {seed}")
            if len(outcomes) % 500 == 0:
                print(f"… {total(outcomes, time.monotonic() - began)}", file=sys.stderr, flush=True)
    finally:
        faults = sum((each.faults for each in outcomes), Counter[str]())
        for kind, count in sorted(faults.items()):
            print(f"  {kind:<40} {count:>9,}")
        print(total(outcomes, time.monotonic() - began))
    return 1 if any(each.violations for each in outcomes) else 0


def total(outcomes: list[Outcome], seconds: float) -> str:
    """Return the sum of many outcomes, as text."""
    faults = sum(each.faults.total() for each in outcomes)
    orders, purchases = sum(each.orders for each in outcomes), sum(each.purchases for each in outcomes)
    failed, statements = sum(bool(each.violations) for each in outcomes), sum(each.statements for each in outcomes)
    count = max(len(outcomes), 1)
    return (
        f"{len(outcomes):,} seeds: {faults:,} faults, {orders:,} orders, {purchases:,} purchases, "
        f"{failed} seeds with violations; {statements / count:.0f} statements per seed, {count / seconds:.1f} seeds/s"
    )


if __name__ == "__main__":
    sys.exit(main())
