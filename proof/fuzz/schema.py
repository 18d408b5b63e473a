"""The OpenAPI document against the code: every response to a client is one that it promises."""

import itertools
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from proof.clients import HttpClient, http_client
from proof.endings import reserved
from proof.marketplace import running_marketplace
from proof.people import STRAIGHT, Crowd

# A schema cannot say which cursors exist, which ETag a ticket has now, whose password is right, or that a ticket is
# still available: a request that fits it may be refused with good reason.
_EXCLUDED: Final = "positive_data_acceptance"
_PHASES: Final = "examples,coverage,fuzzing"

# Requests that sign in or out change the session, so they come last and by themselves.
_SESSIONS: Final = "^/api/users/sign"
_EXAMPLES_PER_ROUND: Final = 100
_SECONDS_PER_ROUND: Final = 1800


@dataclass(frozen=True)
class Exploration:
    """How many requests schemathesis made, and what it printed."""

    cases: int
    output: str


async def explore(url: str, *, seed: int, examples_max: int, seconds_max: int) -> list[Exploration]:
    """Send, as bob, what the document allows and what it forbids: first most operations, then signing in and out.

    Raises AssertionError with schemathesis's output if a response is not one that the document promises.
    """
    async with http_client(url) as http:
        crowd = Crowd(HttpClient(http), Random(seed), STRAIGHT, hold_seconds=0)
        alice, bob = await crowd.sign_up(), await crowd.sign_up()
        wanted, own = await alice.list_ticket(), await bob.list_ticket()
        assert wanted is not None
        assert own is not None
        order = await reserved(bob, wanted)
    # Ids of things that exist, or no response would ever be more than "Not Found".
    known = f"""
        [[operations]]
        include-path = "/api/orders/{{id}}"
        parameters = {{ id = "{order}" }}

        [[operations]]
        include-path = "/api/payments"
        include-method = "GET"
        parameters = {{ orderId = "{order}" }}

        [[operations]]
        include-path = "/api/tickets/{{id}}"
        include-method = "PUT"
        parameters = {{ id = "{own.id}" }}
    """
    options = ("--seed", str(seed), "--max-examples", str(examples_max))
    return [
        _run(url, bob.session, (*options, "--exclude-path-regex", _SESSIONS), known, seconds_max),
        _run(url, bob.session, (*options, "--include-path-regex", _SESSIONS), "", seconds_max),
    ]


def _run(url: str, session: str, options: tuple[str, ...], known: str, seconds_max: int) -> Exploration:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "schemathesis.toml").write_text(known)
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"),
                *("run", f"{url}/api/openapi.json", "--header", f"Cookie: session={session}", *options),
                *("--phases", _PHASES, "--checks", "all", "--exclude-checks", _EXCLUDED),
                *("--generation-database", "none", "--no-color"),
                # The session is bob's own, and not generated for every request.
                *("--generation-with-security-parameters", "false"),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds_max,
        )
    assert run.returncode == 0, run.stdout + run.stderr
    generated = re.search(r"(\d+) generated, (\d+) passed", run.stdout)
    assert generated is not None, run.stdout
    assert generated[1] == generated[2], run.stdout
    return Exploration(int(generated[1]), run.stdout)


async def explore_rounds(cases: int, seed: int) -> None:
    """Explore in rounds, each with a seed and a marketplace of its own, until there were so many cases."""
    done = 0
    for round_seed in itertools.count(seed):
        began, limits = time.monotonic(), {"examples_max": _EXAMPLES_PER_ROUND, "seconds_max": _SECONDS_PER_ROUND}
        async with running_marketplace() as marketplace:
            found = sum(each.cases for each in await explore(marketplace.url, seed=round_seed, **limits))
        done += found
        seconds = time.monotonic() - began
        print(f"seed {round_seed}: {found} cases, all passed, in {seconds:.0f} s; {done} so far", flush=True)
        if done >= cases:
            return
