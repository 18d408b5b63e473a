"""Thousands of mutated requests to every route neither break nor leak anything; `make fuzz` sends many more."""

import logging

import pytest

from proof.fuzz.requests import FuzzReport, send_mutated
from proof.fuzz.stock import CONNECTIONS, prepared
from tests import engines
from tests.support import StartNats
from tests.system.support import WITH_MONEY, marketplace


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("seed", "requests"),
    [(1, 500), pytest.param(2, 5000, marks=[pytest.mark.proof, pytest.mark.full])],
)
async def test_no_mutated_request_breaks_or_leaks_anything(
    databases: engines.Databases, start_nats: StartNats, seed: int, requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with (
        marketplace(databases, start_nats, *WITH_MONEY, "web", database_connections=CONNECTIONS) as market,
        prepared(market.app, seed) as target,
    ):
        await send_mutated(market.app, target, requests, report := FuzzReport())
        await market.settled()
        await market.is_sound()
    assert report.faults == {}
    statuses = report.statuses()
    assert statuses.total() == requests
    # Not all of them are refused before they reach a use case.
    assert statuses[200] > requests / 20
    assert statuses[400] > requests / 30
