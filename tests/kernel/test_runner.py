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
from admitone.kernel.messaging.recovery import DatabaseBehind
from admitone.kernel.runner import MigrationsMissing
from admitone.kernel.running import RunningService
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings
from admitone.tickets.service import SERVICE as TICKETS
from tests.engines import Databases
from tests.kernel.support import kill, start_again
from tests.support import StartNats, app_of, bus_user, eventually, running_app, settings_for, signed_in

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


FADO = {"title": "Fado night", "price": 19.99}


async def test_a_service_whose_database_is_behind_its_stream_does_not_start_and_names_the_command(
    databases: Databases, start_nats: StartNats
) -> None:
    """It would sell again what was sold, and reject what was paid for."""
    nats = start_nats(bus_user(AUTH), bus_user(TICKETS))
    settings = await settings_for(databases, start_nats, AUTH, TICKETS, nats=nats)
    async with app_of([AUTH, TICKETS], settings) as app:
        await list_ticket(app)
    await restore_before_everything(settings)
    before = asyncio.all_tasks()
    with pytest.raises(DatabaseBehind, match="`admitone recover tickets`"):
        async with app_of([AUTH, TICKETS], settings):
            pass
    assert asyncio.all_tasks() == before


async def test_a_service_that_reads_the_bus_only_later_serves_until_then(
    databases: Databases, start_nats: StartNats, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "_CHECK_SECONDS", 0.1)
    nats = start_nats(bus_user(AUTH), bus_user(TICKETS))
    settings = await settings_for(databases, start_nats, AUTH, TICKETS, nats=nats)
    async with app_of([AUTH, TICKETS], settings) as app:
        await list_ticket(app)
    await restore_before_everything(settings)
    kill(nats)
    async with app_of([AUTH, TICKETS], settings) as app, signed_in(app, "alice") as alice:
        assert (await alice.get("/api/tickets/mine")).status_code == 200
        await start_again(nats)

        async def is_refused() -> bool:
            return (await alice.post("/api/tickets", json=FADO)).status_code == 503

        await eventually(is_refused, "requests are refused")
    [logged] = [record for record in caplog.records if record.message == "the service does not work"]
    assert "`admitone recover tickets`" in vars(logged)["error"]


async def list_ticket(app: runner.App) -> None:
    async with signed_in(app, "alice") as alice:
        assert (await alice.post("/api/tickets", json=FADO)).status_code == 201
    database = app.running["tickets"].database

    async def published() -> object:
        return await database.fetchval("SELECT count(*) FROM outbox WHERE stream_sequence IS NOT NULL")

    await eventually(published, "the event is published")


async def restore_before_everything(settings: Settings) -> None:
    """Restore the database of tickets to a time before it published anything."""
    connection = await asyncpg.connect(settings.database_urls["tickets"])
    await connection.execute("DELETE FROM outbox")
    await connection.close()
