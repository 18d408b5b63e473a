"""Starting and stopping services, and keeping their jobs running."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import msgspec
import pytest

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel import runner
from admitone.kernel.errors import Unavailable
from admitone.kernel.runner import MigrationsMissing
from admitone.kernel.running import RunningService
from admitone.kernel.service import Service
from tests.engines import Databases
from tests.support import StartNats, app_of, running_app, settings_for

ALPHA = Service("alpha")


async def test_a_job_waits_while_the_database_is_unreachable_and_a_bug_in_it_is_logged_as_an_error(
    databases: Databases, start_nats: StartNats, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "_RESTART_JOB_SECONDS", 0.01)
    errors = iter([Unavailable(), ConnectionError("gone"), ValueError("a bug")])
    works = asyncio.Event()

    async def job(_service: RunningService) -> None:
        if (error := next(errors, None)) is not None:
            raise error
        works.set()
        await asyncio.Event().wait()

    async with running_app(databases, start_nats, Service("alpha", jobs=(job,)), AUTH):
        async with asyncio.timeout(30):
            await works.wait()
    levels = [record.levelname for record in caplog.records if "a job" in record.message]
    assert levels == ["WARNING", "WARNING", "ERROR"]


async def test_resources_are_opened_before_the_jobs_run_and_closed_last(
    databases: Databases, start_nats: StartNats
) -> None:
    order: list[str] = []
    works = asyncio.Event()

    @asynccontextmanager
    async def open_resources(_service: RunningService[None]) -> AsyncIterator[str]:
        order.append("open")
        yield "resource"
        order.append("close")

    async def job(service: RunningService[str]) -> None:
        order.append(f"job with {service.resources}")
        works.set()
        try:
            await asyncio.Event().wait()
        finally:
            order.append("job ends")

    async with running_app(databases, start_nats, Service("alpha", jobs=(job,), lifespan=open_resources), AUTH):
        async with asyncio.timeout(30):
            await works.wait()
    assert order == ["open", "job with resource", "job ends", "close"]


async def test_one_outdated_database_ends_the_start_of_all_services_at_once(
    databases: Databases, start_nats: StartNats
) -> None:
    """The other service's database is unreachable: alone, the start would wait for it."""
    settings = await settings_for(databases, start_nats, ALPHA, AUTH)
    urls = {**settings.database_urls, "auth": "postgresql://auth:x@127.0.0.1:9/auth"}
    outdated = await databases.fresh("alpha")
    owner = await asyncpg.connect(outdated.migrator_url)
    await owner.execute("DELETE FROM applied_migration WHERE name = 'kernel/0002_outbox.sql'")
    await owner.close()
    app = app_of([ALPHA, AUTH], msgspec.structs.replace(settings, database_urls={**urls, "alpha": outdated.url}))
    before = asyncio.all_tasks()
    with pytest.raises(MigrationsMissing, match="alpha: the database lacks kernel/0002_outbox"):
        async with app:
            pass
    assert asyncio.all_tasks() == before


async def test_a_service_cannot_call_another_one_without_declaring_it(
    databases: Databases, start_nats: StartNats
) -> None:
    """Network policies allow only the declared calls, so that an undeclared one would fail in a cluster only."""

    @asynccontextmanager
    async def open_client(service: RunningService[None]) -> AsyncIterator[None]:
        async with service.client_of("auth"):
            yield

    async with running_app(databases, start_nats, Service("alpha", lifespan=open_client, calls=("auth",)), AUTH):
        pass
    with pytest.raises(AssertionError, match="alpha calls auth and does not declare it"):
        async with running_app(databases, start_nats, Service("alpha", lifespan=open_client), AUTH):
            pass
