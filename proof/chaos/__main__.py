"""`python -m proof.chaos --minutes 8`: real processes under load, while everything they stand on is broken."""

import argparse
import logging
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import uvloop

from proof.chaos.report import report
from proof.chaos.run import ChaosRun
from proof.chaos.schedule import draw


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proof.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="how long faults strike")
    parser.add_argument("--seed", type=int, help="the plan; without it a new one is drawn and printed")
    parser.add_argument("--keep", action="store_true", help="keep the data folder with its logs")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped and the folder removed
    logging.disable(logging.WARNING)  # unreachable servers are what this is about
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(1_000_000)
    folder = Path(tempfile.mkdtemp(prefix="admitone-chaos-"))
    folder.chmod(0o711)
    print(f"Seed {seed}; data and logs in {folder}", flush=True)
    minutes = arguments.minutes
    try:
        outcome = uvloop.run(ChaosRun(seed, folder, lambda means: draw(seed, minutes, means), minutes * 60).run())
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(report(outcome))
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
