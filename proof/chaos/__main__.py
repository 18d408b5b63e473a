"""The command line of chaos: `python -m proof.chaos --minutes 8`, or `python -m proof.chaos hot` for the race."""

import argparse
import logging
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import uvloop

from proof.chaos.hot import race
from proof.chaos.report import report
from proof.chaos.run import Run, planned


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proof.chaos", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("run", "hot"), default="run", help="faults under load, or the race")
    parser.add_argument("--minutes", type=float, default=8.0, help="how long faults strike")
    parser.add_argument("--seed", type=int, help="which plan to play; a new one is drawn and printed otherwise")
    parser.add_argument("--keep", action="store_true", help="leave the data folder with its logs behind")
    parser.add_argument("--rounds", type=int, default=20, help="of the race")
    parser.add_argument("--buyers", type=int, default=1000, help="in each round of the race")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or nobody would stop the servers and clean up
    if arguments.what == "hot":
        return race(arguments.rounds, arguments.buyers)
    logging.disable(logging.WARNING)  # that something is away is what this is about
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="admitone-chaos-"))
    folder.chmod(0o711)
    print(f"Seed {seed}; data and logs in {folder}", flush=True)
    run = Run(seed, folder, planned(seed, arguments.minutes), arguments.minutes * 60)
    try:
        outcome = uvloop.run(run.outcome())
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(report(outcome))
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
