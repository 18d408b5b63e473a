"""Databases for simulated seeds, on the PostgreSQL of the tests."""

import logging
from collections.abc import Iterator

import pytest

from admitone.local.postgres import Postgres
from proof.simulation.databases import WorkerDatabases


@pytest.fixture(scope="module")
def simulated(postgres: Postgres) -> Iterator[WorkerDatabases]:
    """Databases of this worker, emptied before each seed."""
    logging.disable(logging.CRITICAL)
    databases = WorkerDatabases(postgres.url(), "simulated")
    try:
        yield databases
    finally:
        databases.close()
        logging.disable(logging.NOTSET)
