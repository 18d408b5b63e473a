"""The database: rows and events commit together, and outages are distinguished from bugs."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from urllib.parse import urlsplit

import asyncpg
import pytest

from admitone.kernel.database.migrations import migrate
from admitone.kernel.database.pool import UNREACHABLE, Database, affected_rows, connect_with_retries
from admitone.kernel.errors import Unavailable
from admitone.kernel.settings import SettingsError
from admitone.local.postgres import Postgres
from tests import engines
from tests.kernel.support import World, kill, note, start_again
from tests.support import eventually


async def outbox_count(database: Database) -> int:
    count: int = await database.fetchval("SELECT count(*) FROM outbox")
    return count


async def end_sessions(world: World) -> None:
    """End every session of alpha's database, as an operator or a crash of the server would."""
    connection = await asyncpg.connect(world.alpha_fresh.superuser_url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()


async def test_a_transaction_has_one_instant_by_the_clock_of_the_database(world: World) -> None:
    async with world.alpha.transaction() as tx:
        tx.publish(note("one"))
        await tx.execute("SELECT pg_sleep(0.01)")
        assert tx.now == await tx.fetchval("SELECT instant()") == await tx.fetchval("SELECT now()")
        now = tx.now
    assert await world.alpha.fetchval("SELECT recorded_at FROM outbox") == now


async def test_a_service_cannot_change_its_published_events(world: World) -> None:
    await world.publish(note("published"))
    for statement in ("UPDATE outbox SET data = '{}'", "UPDATE outbox SET position = 7", "TRUNCATE outbox"):
        with pytest.raises(asyncpg.PostgresError):
            await world.alpha.execute(statement)


async def test_a_connection_lost_inside_a_transaction_is_an_outage_and_leaves_nothing(world: World) -> None:
    async def interrupted() -> None:
        async with world.alpha.transaction() as tx:
            tx.publish(note("never"))
            await tx.write_events()
            await end_sessions(world)
            await tx.fetchval("SELECT 1")

    with pytest.raises((Unavailable, *UNREACHABLE)):
        await interrupted()
    assert await outbox_count(world.alpha) == 0


async def test_an_unknown_outcome_of_a_commit_is_raised_as_an_outage(world: World) -> None:
    """The connection breaks during the commit, which sometimes took effect and sometimes did not."""
    outcomes: set[tuple[bool, int]] = set()
    for attempt in range(6):
        committing = asyncio.Event()

        async def publishes(committing: asyncio.Event = committing, text: str = f"attempt {attempt}") -> bool:
            try:
                async with world.alpha.transaction() as tx:
                    tx.publish(note(text))
                    committing.set()
            except (Unavailable, *UNREACHABLE):
                return False
            return True

        task = world.run(publishes())
        await committing.wait()
        if attempt % 2:
            await end_sessions(world)
        was_committed = await asyncio.wait_for(task, 5)
        connection = await asyncpg.connect(world.alpha_fresh.url)
        pattern = f'%"attempt {attempt}"%'
        outcomes.add(
            (was_committed, await connection.fetchval("SELECT count(*) FROM outbox WHERE data LIKE $1", pattern))
        )
        await connection.close()
    assert (True, 0) not in outcomes, "what was reported as committed is stored"
    assert (True, 1) in outcomes


async def test_a_commit_that_waits_for_a_second_server_is_seen_by_nobody_before(private_postgres: Postgres) -> None:
    admin = await asyncpg.connect(private_postgres.url())
    await admin.execute("CREATE FUNCTION instant() RETURNS timestamptz LANGUAGE sql RETURN now()")
    await admin.execute("CREATE TABLE kept (word text)")
    database = await Database.connect(private_postgres.url(), application="test")
    database.silent_seconds_max = 0.5

    async def await_server(name: str) -> None:
        await admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        await admin.execute("SELECT pg_reload_conf()")

        async def is_set() -> bool:
            return bool(await database.fetchval("SHOW synchronous_standby_names") == name)

        await eventually(is_set, "the setting is loaded")

    await await_server("a_server_that_is_away")
    with pytest.raises((Unavailable, *UNREACHABLE)):
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO kept VALUES ('once')")
    with pytest.raises((Unavailable, *UNREACHABLE)):
        await database.execute("INSERT INTO kept VALUES ('alone')")
    assert await admin.fetchval("SELECT count(*) FROM kept") == 0

    await await_server("")

    async def both_are_there() -> bool:
        return {row["word"] for row in await admin.fetch("SELECT word FROM kept")} == {"once", "alone"}

    await eventually(both_are_there, "the commits are complete")
    await database.close()
    await admin.close()


async def test_no_caller_waits_longer_than_a_second_for_a_connection(databases: engines.Databases) -> None:
    fresh = await databases.fresh("alpha")
    database = await Database.connect(fresh.url, application="alpha", connections=1)
    try:
        async with database.connection():
            with pytest.raises(Unavailable):
                await database.fetchval("SELECT 1")
        assert await database.fetchval("SELECT 1") == 1
    finally:
        await database.close()


async def test_a_killed_server_is_an_outage_and_is_used_again_when_it_is_up(
    private_postgres: Postgres,
) -> None:
    fresh = await engines.Databases(private_postgres).fresh("alpha")
    database = await Database.connect(fresh.url, application="alpha")
    async with database.transaction() as tx:
        tx.publish(note("kept"))

    kill(private_postgres)
    for _ in range(3):
        with pytest.raises((Unavailable, *UNREACHABLE)):
            await database.fetchval("SELECT 1")
    await start_again(private_postgres)

    async def is_reachable() -> bool:
        try:
            return await outbox_count(database) == 1
        except (Unavailable, *UNREACHABLE):
            return False

    await eventually(is_reachable, "the pool reaches the server again")
    await database.close()


async def test_an_argument_of_a_wrong_type_is_a_bug_and_not_an_outage(world: World) -> None:
    for arguments in (["seven"], [7, 8]):
        with pytest.raises((asyncpg.InterfaceError, asyncpg.DataError)) as caught:
            await world.alpha.fetchval("SELECT $1::integer", *arguments)
        assert not isinstance(caught.value, UNREACHABLE)


async def test_the_relay_is_woken_after_the_commit_and_only_if_events_were_published(world: World) -> None:
    seen: list[int] = []
    elsewhere = await world.database(world.alpha_fresh, "alpha")
    waking: list[asyncio.Task[int]] = []
    world.alpha.published = lambda: waking.append(asyncio.create_task(outbox_count(elsewhere)))
    async with world.alpha.transaction() as tx:
        await tx.execute("SELECT 1")
    assert waking == []
    await world.publish(note("one"), note("two"))
    seen += await asyncio.gather(*waking)
    assert seen == [2]


def test_the_number_of_affected_rows_is_read_from_the_command_tag() -> None:
    assert [affected_rows(tag) for tag in ("UPDATE 3", "INSERT 0 1", "DELETE 0")] == [3, 1, 0]


@asynccontextmanager
async def pooler(url: str, *, ignores_settings: bool) -> AsyncIterator[str]:
    """Run what PgBouncer does with the settings of a session: refuse or ignore them. Yields the URL behind it."""
    server = urlsplit(url)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while received := await reader.read(65536):
            writer.write(received)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!I", await reader.readexactly(4))
        _version, *words = (await reader.readexactly(length - 4)).split(b"\0")
        names = words[::2]
        assert b"lock_timeout" in names
        if not ignores_settings:
            message = b"SFATAL\0C08P01\0Munsupported startup parameter: lock_timeout\0\0"
            writer.write(b"E" + struct.pack("!I", len(message) + 4) + message)
            writer.close()
            return
        onward, out = await asyncio.open_connection(server.hostname, server.port)
        kept = [name + b"\0" + words[2 * at + 1] for at, name in enumerate(names) if name in {b"user", b"database"}]
        startup = struct.pack("!I", 0x30000) + b"\0".join(kept) + b"\0\0"
        out.write(struct.pack("!I", len(startup) + 4) + startup)
        await asyncio.gather(copy(reader, out), copy(onward, writer))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    with closing(listener):
        port = listener.sockets[0].getsockname()[1]
        yield server._replace(netloc=f"{server.username}:{server.password}@127.0.0.1:{port}").geturl()


@pytest.mark.parametrize("ignores_settings", [False, True])
async def test_a_service_does_not_start_behind_a_pooler(databases: engines.Databases, ignores_settings: bool) -> None:
    fresh = await databases.fresh("alpha")
    async with pooler(fresh.url, ignores_settings=ignores_settings) as url, asyncio.timeout(10):
        with pytest.raises(SettingsError, match=r"PgBouncer.*Set ADMITONE_ALPHA_DATABASE_URL to the address of Post"):
            await connect_with_retries(url, application="alpha", connections=2)


async def test_migrations_are_not_applied_through_a_pooler(databases: engines.Databases) -> None:
    fresh = await databases.fresh("alpha")
    async with pooler(fresh.migrator_url, ignores_settings=False) as url:
        with pytest.raises(SettingsError, match=r"PgBouncer.*Set ADMITONE_ALPHA_MIGRATOR_URL to the address of Post"):
            await migrate(url, "alpha")
