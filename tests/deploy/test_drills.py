"""The drills of deployments run as documented: they restart or restore a real marketplace under load."""

import subprocess
import sys

import pytest

from admitone.registry import SERVICES
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


def test_nothing_is_lost_when_the_database_of_orders_is_restored_to_an_earlier_time() -> None:
    """Every later buyer was refunded."""
    assert_recovered("orders")


@pytest.mark.full
def test_nothing_is_lost_when_any_other_database_is_restored_to_an_earlier_time() -> None:
    assert_recovered(*(each.name for each in SERVICES if each.has_database and each.name != "orders"))


@pytest.mark.full
def test_nothing_is_lost_when_all_databases_are_restored_to_an_earlier_time() -> None:
    output = run("deploy.drill", "--together")
    assert "auth, tickets, orders, expiration, payments: every invariant holds after " in output


def assert_recovered(*services: str) -> None:
    output = run("deploy.drill", *services)
    for each in services:
        assert f"{each}: unavailable for " in output
        assert f"{each}: every invariant holds after " in output
