"""Thousands of mutated requests to every route neither break nor leak anything; `make fuzz` sends many more."""

import logging

import pytest

from proof.fuzz.market import fuzzed_market
from proof.fuzz.requests import run
from tests import engines
from tests.support import StartNats

REQUESTS = 5000


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1])
async def test_no_mutated_request_breaks_or_leaks_anything(
    databases: engines.Databases, start_nats: StartNats, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with fuzzed_market(databases, start_nats, seed) as fuzzed:
        report = await run(fuzzed.app, fuzzed.mutator, fuzzed.fields, REQUESTS, renew=fuzzed.stock.renew)
        await fuzzed.stock.is_sound(report)
    assert report.findings == {}
    assert report.total == REQUESTS
    # Not all of them are refused before they reach a use case.
    assert report.statuses[200] > REQUESTS / 20
    assert report.statuses[400] > REQUESTS / 30
