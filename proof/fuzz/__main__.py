"""`python -m proof.fuzz`: mutated requests, the OpenAPI document, guided runs of each parser, the time of sign-in."""

import argparse
import asyncio
import logging
import subprocess
import sys
import time
from collections import Counter
from typing import Final

import uvloop
from argon2 import PasswordHasher
from msgspec.structs import replace

from admitone.auth import passwords
from admitone.kernel.runner import App
from admitone.registry import AUTHORITY, SERVICES
from proof.fuzz import parsers, schema, signin
from proof.fuzz.requests import EXPECTED_LOG, FuzzReport, send_mutated
from proof.fuzz.stock import CONNECTIONS, prepared
from proof.marketplace import logged_errors, running_marketplace

_ROUND: Final = 20_000


async def send_rounds(count: int, seed: int) -> int:
    """Send mutated requests in rounds, each with a marketplace and a seed of its own; return the kinds of fault.

    The application in this process is another replica of the marketplace. After each round every invariant is checked.
    """
    logging.getLogger().addHandler(logging.NullHandler())
    # The cost of hashing is not the subject: the cheapest hash leaves time for more requests.
    vars(passwords)["_HASHER"] = PasswordHasher(memory_cost=8, time_cost=1, parallelism=1)
    report, began = FuzzReport(), time.monotonic()
    for number, start in enumerate(range(0, count, _ROUND)):
        known = set(report.faults)
        await _send_round(min(_ROUND, count - start), seed + number, report)
        for fault in report.faults.keys() - known:
            print(f"  {fault}\n    {report.faults[fault][:1200]}", flush=True)
    print("\nresponses by route:")
    routes = sorted({route for route, _ in report.responses})
    for route in routes:
        print(f"  {route:<36} {_text(report.statuses(route))}")
    total, kinds = report.responses.total(), len(report.faults)
    print(f"\n{total} requests in {time.monotonic() - began:.0f} s on {len(routes)} routes, {kinds} kinds of fault")
    return kinds


async def _send_round(count: int, seed: int, report: FuzzReport) -> None:
    began = time.monotonic()
    async with running_marketplace() as marketplace:
        settings = replace(marketplace.settings, database_connections=CONNECTIONS)
        async with App(SERVICES, settings, AUTHORITY) as app, prepared(app, seed) as target:
            await send_mutated(app, target, count, report)
        await marketplace.applied()
        for finding in await marketplace.check():
            if not finding.holds:
                report.add_fault(f"{finding.id}: {finding.samples()}")
        for message in logged_errors(marketplace.folder):
            if EXPECTED_LOG not in message:
                report.add_fault(f"logged: {message}")
    rate = count / (time.monotonic() - began)
    so_far = f"{len(report.faults)} kinds of fault, {report.busy} busy at first, {_text(report.statuses())}"
    print(f"seed {seed}: {count} requests, {rate:.0f}/s; so far {so_far}", flush=True)


def _text(statuses: Counter[int]) -> str:
    return " ".join(f"{status}:{number}" for status, number in sorted(statuses.items()))


def run_guided(names: list[str], seconds: int) -> int:
    """Run each parser in a process of its own, because libFuzzer ends the process it runs in; return the failures."""
    failed = 0
    for name in names or sorted(parsers.TARGETS):
        command = [sys.executable, "-m", "proof.fuzz.guided", name, f"-max_total_time={seconds}", "-max_len=70000"]
        failed += subprocess.run(command, check=False).returncode != 0
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proof.fuzz", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    requests = kinds.add_parser("requests", help="mutated requests to every route, in process")
    requests.add_argument("--count", type=int, default=1_000_000)
    requests.add_argument("--seed", type=int, default=1)
    guided = kinds.add_parser("parsers", help="coverage-guided runs; needs the extra `fuzz` (Linux)")
    guided.add_argument("names", nargs="*", choices=[*sorted(parsers.TARGETS), []], default=[])
    guided.add_argument("--seconds", type=int, default=120)
    document = kinds.add_parser("schema", help="what the OpenAPI document allows and forbids, by schemathesis")
    document.add_argument("cases", nargs="?", type=int, default=20_000)
    document.add_argument("--seed", type=int, default=1)
    timing = kinds.add_parser("signin", help="how long signing in takes, for known and unknown e-mails")
    timing.add_argument("--tries", type=int, default=300)
    chosen = parser.parse_args()
    match chosen.kind:
        case "requests":
            return min(uvloop.run(send_rounds(chosen.count, chosen.seed)), 1)
        case "parsers":
            return min(run_guided(chosen.names, chosen.seconds), 1)
        case "schema":
            asyncio.run(schema.explore_rounds(chosen.cases, chosen.seed))
        case _:
            asyncio.run(signin.measure(chosen.tries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
