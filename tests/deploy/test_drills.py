"""The drills of deployments run as documented: they restart or restore a real marketplace under load."""

import subprocess
import sys

import pytest

from tests.deploy.manifests import ROOT

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=850
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.full
def test_no_request_fails_while_every_replica_is_restarted() -> None:
    assert "0 failed, every invariant holds" in run("deploy.rolling", "500")


def test_every_invariant_holds_again_after_a_database_was_restored() -> None:
    output = run("deploy.drill")
    assert "expiration was unavailable for " in output
    assert "every invariant holds after " in output
