"""The database: rows and events together or not at all, and a clear answer when it is away."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from admitone.kernel.database.batching import Batcher
from admitone.kernel.database.pool import UNREACHABLE, Database, affected_rows
from admitone.kernel.errors import Unavailable
from admitone.local.postgres import Postgres
from tests import engines
from tests.kernel.support import World, ended, kill, note, start_again
from tests.support import eventually


async def outbox_count(database: Database) -> int:
    count: int = await database.fetchval("SELECT count(*) FROM outbox")
    return count


async def end_session_of(world: World, database: Database) -> None:
    """End every other session of this database, as an operator or a crash of the server would."""
    connection = await asyncpg.connect(world.alpha_fresh.superuser_url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()


async def test_a_transaction_has_one_instant_the_databases_own(world: World) -> None:
    async with world.alpha.transaction() as tx:
        tx.publish(note("one"))
        await tx.execute("SELECT pg_sleep(0.01)")
        assert tx.now == await tx.fetchval("SELECT instant()") == await tx.fetchval("SELECT now()")
        now = tx.now
    assert await world.alpha.fetchval("SELECT recorded_at FROM outbox") == now


async def test_what_the_service_told_it_cannot_take_back(world: World) -> None:
    await world.tell(note("said"))
    for statement in ("UPDATE outbox SET data = '{}'", "UPDATE outbox SET position = 7", "TRUNCATE outbox"):
        with pytest.raises(asyncpg.PostgresError):
            await world.alpha.execute(statement)


async def test_a_connection_lost_inside_a_transaction_is_no_bug_and_leaves_nothing(world: World) -> None:
    async def interrupted() -> None:
        async with world.alpha.transaction() as tx:
            tx.publish(note("never"))
            await tx.write_events()
            await end_session_of(world, world.alpha)
            await tx.fetchval("SELECT 1")

    with pytest.raises((Unavailable, *UNREACHABLE)):
        await interrupted()
    assert await outbox_count(world.alpha) == 0


async def test_an_unknown_outcome_is_raised_and_asking_again_shows_it(world: World) -> None:
    """The connection breaks while the commit is under way: sometimes it was done, sometimes not."""
    outcomes: set[tuple[bool, int]] = set()
    for attempt in range(6):
        committing = asyncio.Event()

        async def telling(committing: asyncio.Event = committing, text: str = f"attempt {attempt}") -> bool:
            try:
                async with world.alpha.transaction() as tx:
                    tx.publish(note(text))
                    committing.set()
            except (Unavailable, *UNREACHABLE):
                return False
            return True

        task = world.run(telling())
        await committing.wait()
        if attempt % 2:
            await end_session_of(world, world.alpha)
        was_told = await asyncio.wait_for(task, 5)
        connection = await asyncpg.connect(world.alpha_fresh.url)
        pattern = f'%"attempt {attempt}"%'
        outcomes.add((was_told, await connection.fetchval("SELECT count(*) FROM outbox WHERE data LIKE $1", pattern)))
        await connection.close()
    assert (True, 0) not in outcomes, "what was said to be committed is there"
    assert (True, 1) in outcomes


async def test_nobody_waits_longer_than_a_second_for_a_connection(databases: engines.Databases) -> None:
    fresh = await databases.fresh("alpha")
    database = await Database.connect(fresh.url, application="alpha", connections=1)
    try:
        async with database.connection():
            with pytest.raises(Unavailable):
                await database.fetchval("SELECT 1")
        assert await database.fetchval("SELECT 1") == 1
    finally:
        await database.close()


async def test_a_killed_server_means_unavailable_and_is_used_again_when_it_is_back(
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

    async def answers() -> bool:
        try:
            return await outbox_count(database) == 1
        except (Unavailable, *UNREACHABLE):
            return False

    await eventually(answers, "the pool reaches the server again")
    await database.close()


async def test_an_argument_that_does_not_fit_is_a_bug_and_no_absence(world: World) -> None:
    for arguments in (["seven"], [7, 8]):
        with pytest.raises((asyncpg.InterfaceError, asyncpg.DataError)) as caught:
            await world.alpha.fetchval("SELECT $1::integer", *arguments)
        assert not isinstance(caught.value, UNREACHABLE)


async def test_wakes_come_after_the_commit_and_only_when_something_was_told(world: World) -> None:
    seen: list[int] = []
    elsewhere = await world.database(world.alpha_fresh, "alpha")
    waking: list[asyncio.Task[int]] = []
    world.alpha.on_publish(lambda: waking.append(asyncio.create_task(outbox_count(elsewhere))))
    async with world.alpha.transaction() as tx:
        await tx.execute("SELECT 1")
    assert waking == []
    await world.tell(note("one"), note("two"))
    seen += await asyncio.gather(*waking)
    assert seen == [2]


# Gathered calls.


async def test_calls_that_come_while_one_is_out_go_together() -> None:
    batches: list[list[int]] = []
    gate = asyncio.Event()

    async def run(asks: Sequence[int]) -> Sequence[int]:
        batches.append(list(asks))
        await gate.wait()
        return [ask * 10 for ask in asks]

    gathered = Batcher(run)
    calls = [asyncio.create_task(gathered(number)) for number in range(10)]
    await asyncio.sleep(0)  # the first two are out
    gate.set()
    assert await asyncio.gather(*calls) == [number * 10 for number in range(10)]
    assert [len(batch) for batch in batches] == [1, 1, 8]


async def test_one_failing_call_spoils_no_other_but_a_lost_database_is_told_to_all() -> None:
    tried: list[list[str]] = []

    async def run(asks: Sequence[str]) -> Sequence[str]:
        tried.append(list(asks))
        await asyncio.sleep(0)
        if "bad" in asks:
            raise ValueError
        if "lost" in asks:
            raise ConnectionError
        return asks

    gathered = Batcher(run)
    first = await asyncio.gather(*(gathered(ask) for ask in ("a", "b", "c", "bad", "d")), return_exceptions=True)
    assert [repr(each) for each in first] == ["'a'", "'b'", "'c'", "ValueError()", "'d'"]

    tried.clear()
    second = await asyncio.gather(*(gathered(ask) for ask in ("a", "b", "c", "lost", "d")), return_exceptions=True)
    assert [repr(each) for each in second] == ["'a'", "'b'", *["ConnectionError()"] * 3]
    assert ["c"] not in tried, "whose outcome is unknown is not simply run again"


async def test_a_caller_that_goes_away_disturbs_nobody() -> None:
    gate = asyncio.Event()

    async def run(asks: Sequence[int]) -> Sequence[int]:
        await gate.wait()
        return asks

    gathered = Batcher(run)
    calls = [asyncio.create_task(gathered(number)) for number in range(6)]
    await asyncio.sleep(0)
    await ended(calls[0])
    await ended(calls[4])
    gate.set()
    assert await asyncio.gather(*(calls[number] for number in (1, 2, 3, 5))) == [1, 2, 3, 5]


def test_a_command_tag_says_how_many_rows() -> None:
    assert [affected_rows(tag) for tag in ("UPDATE 3", "INSERT 0 1", "DELETE 0")] == [3, 1, 0]
