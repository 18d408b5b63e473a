"""The OpenAPI document against the code: whatever a client makes of it, the answers are the ones it promises."""

import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from admitone.kernel import clock
from tests.engines import wait_until
from tests.whole import Up, running_up

# What would contradict the API by its nature:
# - positive_data_acceptance: a schema cannot say which cursors were given out, which ETag a ticket has now, whose
#   password is right, or that the ticket one wants is still to be had. What fits it may be refused with good reason.
_EXCLUDED: Final = "positive_data_acceptance"
_PHASES: Final = "examples,coverage,fuzzing"

# Whoever signs in or out is somebody else afterwards: these are asked last, or the rest would be asked by nobody.
_SESSIONS: Final = "^/api/users/sign"
_OTHERS: Final = ("--exclude-path-regex", _SESSIONS)
_EXAMPLES_A_ROUND: Final = 100
_SECONDS_A_ROUND: Final = 1800


@dataclass(frozen=True)
class Explored:
    """What came of it: how many requests were made up, and what schemathesis said of them."""

    cases: int
    said: str


def explored(up: Up, *, seed: int, examples_max: int, seconds_max: int) -> Iterator[Explored]:
    """Let schemathesis ask whatever the document allows and forbids, as bob: first the most, then signing in and out.

    Raises AssertionError with what it says when an answer is none that the document promises.
    """
    with up.person("alice") as alice, up.person("bob") as bob:
        wanted, own = (
            person.post("/api/tickets", json={"title": "Fado night", "price": 19.99}).json()["id"]
            for person in (alice, bob)
        )
        wait_until(lambda: bob.post("/api/orders", json={"ticketId": wanted}).status_code == 201, "bob reserves")
        [order, *_] = bob.get("/api/orders").json()["orders"]
        # Ids of things there are, or no answer would ever be more than "Not Found".
        known = f"""
            [[operations]]
            include-path = "/api/orders/{{id}}"
            parameters = {{ id = "{order["id"]}" }}

            [[operations]]
            include-path = "/api/payments"
            include-method = "GET"
            parameters = {{ orderId = "{order["id"]}" }}

            [[operations]]
            include-path = "/api/tickets/{{id}}"
            include-method = "PUT"
            parameters = {{ id = "{own}" }}
        """
        for which in (_OTHERS, ("--include-path-regex", _SESSIONS)):
            options = (*which, "--seed", str(seed), "--max-examples", str(examples_max))
            yield _asked(up, bob, options, known if which is _OTHERS else "", seconds_max)


def _asked(up: Up, bob: httpx.Client, options: tuple[str, ...], known: str, seconds_max: int) -> Explored:
    cookie = "; ".join(f"{name}={value}" for name, value in bob.cookies.items())
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "schemathesis.toml").write_text(known)
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"),
                *("run", f"{up.url}/api/openapi.json", "--header", f"Cookie: {cookie}", *options),
                *("--phases", _PHASES, "--checks", "all", "--exclude-checks", _EXCLUDED),
                *("--generation-database", "none", "--no-color"),
                # The session is bob's own, which is not made up anew for every request.
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
    return Explored(int(generated[1]), run.stdout)


def explore(cases: int, seed: int) -> None:
    """Explore in rounds, each with a seed and a marketplace of its own, until there were so many cases."""
    done = 0
    for round_seed in itertools.count(seed):
        began = clock.monotonic_seconds()
        with tempfile.TemporaryDirectory() as folder, running_up(Path(folder) / "data") as up:
            found = [
                each.cases
                for each in explored(up, seed=round_seed, examples_max=_EXAMPLES_A_ROUND, seconds_max=_SECONDS_A_ROUND)
            ]
        done += sum(found)
        seconds = clock.monotonic_seconds() - began
        print(f"seed {round_seed}: {sum(found)} cases, all passed, in {seconds:.0f} s; {done} so far", flush=True)
        if done >= cases:
            return
