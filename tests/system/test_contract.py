"""The OpenAPI document against the code: whatever a client makes of it, the answers are the ones it promises."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.engines import wait_until
from tests.whole import Up, running_up

# What would contradict the API by its nature:
# - positive_data_acceptance: a schema cannot say which cursors were given out, which ETag a ticket has now, whose
#   password is right, or that the ticket one wants is still to be had. What fits it may be refused with good reason.
EXCLUDED = "positive_data_acceptance"
PHASES = "examples,coverage,fuzzing"
SEED = "20270501"
EXAMPLES_MAX = "8"
# Many times what a run needs on two cores that do nothing else.
SECONDS_MAX = 200

# Whoever signs in or out is somebody else afterwards: these are asked last, or the rest would be asked by nobody.
SESSIONS = "^/api/users/sign"


def explored(up: Up, folder: Path, bob: httpx.Client, *chosen: str, known: str = "") -> str:
    """Let schemathesis ask whatever the document allows and forbids, as bob; return what it says in the end."""
    folder.mkdir()
    (folder / "schemathesis.toml").write_text(known)
    cookie = "; ".join(f"{name}={value}" for name, value in bob.cookies.items())
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"),
            *("run", f"{up.url}/api/openapi.json", "--header", f"Cookie: {cookie}", *chosen),
            *("--phases", PHASES, "--checks", "all", "--exclude-checks", EXCLUDED),
            *("--seed", SEED, "--max-examples", EXAMPLES_MAX, "--generation-database", "none", "--no-color"),
            # The session is bob's own, which is not made up anew for every request.
            *("--generation-with-security-parameters", "false"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    print(run.stdout.splitlines()[-1])
    return run.stdout


def cases(said: str) -> int:
    generated = re.search(r"(\d+) generated, (\d+) passed", said)
    assert generated is not None, said
    assert generated[1] == generated[2], said
    return int(generated[1])


@pytest.mark.timeout(3 * SECONDS_MAX)
def test_every_answer_is_one_that_the_document_promises(tmp_path: Path) -> None:
    with running_up(tmp_path / "data") as up, up.person("alice") as alice, up.person("bob") as bob:
        wanted, own = (
            person.post("/api/tickets", json={"title": "Fado night", "price": 19.99}).json()["id"]
            for person in (alice, bob)
        )
        wait_until(lambda: bob.post("/api/orders", json={"ticketId": wanted}).status_code == 201, "bob reserves")
        [order] = bob.get("/api/orders").json()["orders"]
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
        said = explored(up, tmp_path / "most", bob, "--exclude-path-regex", SESSIONS, known=known)
        assert "Authentication failed" not in said, said
        assert cases(said) > 200
        assert cases(explored(up, tmp_path / "sessions", bob, "--include-path-regex", SESSIONS)) > 50
        assert up.stop() == 0
