"""`python -m proof.load`: measure the marketplace, and print one table."""

import argparse
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from proof.load.pages import pages
from proof.load.poison import prove_poison
from proof.load.report import Report
from proof.load.soak import prove_soak
from proof.load.speed import PARTS, Bench
from proof.load.stampede import prove_stampede
from proof.load.storm import prove_storm
from proof.marketplace import running_marketplace

Part = Callable[[Bench], Awaitable[None]]

_MEASUREMENTS: dict[str, Part] = {**PARTS, "pages": pages}
_BY_DEFAULT = [name for name in PARTS if name != "growth"]
# Each with the arguments and the environment of its marketplace. Unpaid reservations of a storm expire soon, or its
# history would take a quarter of an hour to end.
_PROOFS: dict[str, tuple[Part, tuple[str, ...], dict[str, str]]] = {
    "storm": (prove_storm, (), {"ADMITONE_ORDER_WINDOW_SECONDS": "10"}),
    "poison": (prove_poison, (), {}),
    "stampede": (prove_stampede, ("--processes",), {"ADMITONE_ORDER_WINDOW_SECONDS": "900"}),
    "soak": (prove_soak, (), {}),
}


async def _measure(report: Report, options: argparse.Namespace) -> None:
    """Start with an empty folder, and again with what is in it then; run the chosen measurements in a fresh one."""
    with tempfile.TemporaryDirectory(prefix="admitone-load-", ignore_cleanup_errors=True) as folder:
        for name in ("cold start", "warm start"):
            async with running_marketplace(folder=Path(folder)) as marketplace:
                report.add(name, seconds=marketplace.started_seconds)
    async with running_marketplace() as marketplace:
        bench = Bench(marketplace, report, options)
        bench.add_memory("idle")
        for name in options.parts or _BY_DEFAULT:
            await _MEASUREMENTS[name](bench)
        bench.add_memory("after load")


async def _prove(report: Report, options: argparse.Namespace) -> None:
    """Run each proof in a marketplace of its own."""
    for name in options.parts:
        prove, arguments, environment = _PROOFS[name]
        async with running_marketplace(*arguments, environment=environment) as marketplace:
            await prove(Bench(marketplace, report, options))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proof.load", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", choices=[*_MEASUREMENTS, *_PROOFS, []], help=f"default: {' '.join(_BY_DEFAULT)}"
    )
    parser.add_argument("--seconds", type=int, default=5, help="how long each load lasts")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000], help="tickets, for growth")
    parser.add_argument("--events", type=int, default=10_000, help="in the history, for storm")
    parser.add_argument("--times", type=int, default=10, help="how often it is published again, for storm")
    parser.add_argument("--rounds", type=int, default=20, help="of the stampede")
    parser.add_argument("--buyers", type=int, default=1000, help="in each round of the stampede")
    parser.add_argument("--minutes", type=float, default=10, help="how long people trade, for soak")
    parser.add_argument("--pace", type=float, default=0, help="per second: tickets for poison, purchases for soak")
    options = parser.parse_args()
    if (proofs := _PROOFS.keys() & set(options.parts)) and proofs != set(options.parts):
        parser.error(f"run {', '.join(sorted(proofs))} apart from measurements of speed")
    report = Report()
    report.add("machine", cores=float(os.cpu_count() or 0), load=os.getloadavg()[0])
    uvloop.run(_prove(report, options) if proofs else _measure(report, options))


if __name__ == "__main__":
    main()
