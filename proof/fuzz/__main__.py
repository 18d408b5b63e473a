"""`python -m proof.fuzz`: mutated requests, the OpenAPI document or parsers at length, or what signing in costs."""

import argparse
import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import uvloop
from argon2 import PasswordHasher

from admitone.auth import passwords
from admitone.kernel import clock
from proof.fuzz import parsers, schema, signin
from proof.fuzz.market import fuzzed_market
from proof.fuzz.requests import Report, run
from tests import engines

_A_ROUND = 20_000


async def mutate_requests(count: int, seed: int) -> int:
    """Send requests in rounds, each with a market and a seed of its own; return how many kinds of fault were found.

    After each round every invariant of the marketplace is looked at, too.
    """
    logging.getLogger().addHandler(logging.NullHandler())
    # What a hash costs is no part of this: the cheapest one leaves time for more requests.
    vars(passwords)["_HASHER"] = PasswordHasher(memory_cost=8, time_cost=1, parallelism=1)
    whole = Report()
    began = clock.monotonic_seconds()
    with ExitStack() as running:
        postgres = running.enter_context(engines.running_postgres())
        databases = engines.Databases(postgres)
        for this_round in rounds(count):
            began_round = clock.monotonic_seconds()
            with ExitStack() as bus:
                start_nats = lambda *users: bus.enter_context(engines.running_nats(users))  # noqa: E731
                async with fuzzed_market(databases, start_nats, seed) as fuzzed:
                    report = await run(fuzzed.app, fuzzed.mutator, fuzzed.fields, this_round, renew=fuzzed.stock.renew)
                    await fuzzed.stock.is_sound(report)
            await databases.drop()
            rate = this_round / (clock.monotonic_seconds() - began_round)
            statuses = " ".join(f"{status}:{number}" for status, number in sorted(report.statuses.items()))
            print(
                f"seed {seed}: {this_round} requests, {rate:.0f}/s, {len(report.findings)} findings, {statuses},"
                f" busy at first {report.busy}",
                flush=True,
            )
            for fault, example in report.findings.items():
                if fault not in whole.findings:
                    print(f"  {fault}\n    {example[:1200]}", flush=True)
            whole.add(report)
            seed += 1
    print("\nanswers by way in:")
    for way, statuses_of in sorted(whole.ways.items()):
        print(f"  {way:<36} {' '.join(f'{status}:{number}' for status, number in sorted(statuses_of.items()))}")
    seconds = clock.monotonic_seconds() - began
    kinds = len(whole.findings)
    print(
        f"\n{whole.total} requests in {seconds:.0f} s on {len(whole.ways)} ways in, {kinds} kinds of fault,"
        f" {whole.busy} busy at first"
    )
    return kinds


def rounds(count: int) -> Iterator[int]:
    """Split a number of requests into rounds."""
    for done in range(0, count, _A_ROUND):
        yield min(_A_ROUND, count - done)


def fuzz_parsers(names: list[str], seconds: int) -> int:
    """Run each parser in a process of its own, because libFuzzer ends the process it runs in."""
    failed = 0
    for name in names or sorted(parsers.TARGETS):
        command = [sys.executable, "-m", "proof.fuzz.guided", name, f"-max_total_time={seconds}", "-max_len=70000"]
        failed += subprocess.run(command, check=False).returncode != 0
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m proof.fuzz", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    requests = kinds.add_parser("requests", help="mutated requests on every route, in process")
    requests.add_argument("--count", type=int, default=1_000_000)
    requests.add_argument("--seed", type=int, default=1)
    one = kinds.add_parser("parsers", help="coverage-guided runs; needs the extra `fuzz` (Linux)")
    one.add_argument("names", nargs="*", choices=[*sorted(parsers.TARGETS), []], default=[])
    one.add_argument("--seconds", type=int, default=120)
    document = kinds.add_parser("schema", help="whatever the OpenAPI document allows and forbids, by schemathesis")
    document.add_argument("cases", nargs="?", type=int, default=20_000)
    document.add_argument("--seed", type=int, default=1)
    timing = kinds.add_parser("signin", help="what signing in costs, for known and unknown e-mails")
    timing.add_argument("--tries", type=int, default=300)
    chosen = parser.parse_args()
    match chosen.kind:
        case "requests":
            return min(uvloop.run(mutate_requests(chosen.count, chosen.seed)), 1)
        case "parsers":
            return min(fuzz_parsers(chosen.names, chosen.seconds), 1)
        case "schema":
            schema.explore(chosen.cases, chosen.seed)
            return 0
        case _:
            asyncio.run(signin.measure(chosen.tries))
            return 0


if __name__ == "__main__":
    sys.exit(main())
