"""A database that was restored to an earlier time gets back what its service has published and consumed since."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from admitone.kernel.clock import now
from admitone.kernel.database.pool import Transaction
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.event import wrap
from admitone.kernel.messaging.inbox import Inbox
from admitone.kernel.messaging.outbox import Relay, ServiceRuns
from admitone.kernel.messaging.recovery import (
    CannotRebuild,
    DatabaseBehind,
    LostEvent,
    Recovery,
    is_next_version,
    recover,
    refuse_if_behind,
)
from tests.kernel.support import (
    HandlerBroken,
    NoteErased,
    NoteWritten,
    World,
    create_tables,
    ended,
    kill,
    note,
    note_effect,
    numbered,
    publish_message,
    start_again,
    texts,
)
from tests.support import eventually

ROWS = "SELECT id, type, aggregate, version, data, recorded_at, stream_sequence, copies FROM outbox ORDER BY position"


async def rebuild_note(tx: Transaction, event: NoteWritten, _recorded_at: datetime) -> None:
    """Keep alpha's own notes."""
    have = await tx.fetchval("SELECT version FROM note WHERE id = $1", event.id)
    if is_next_version(event, -1 if have is None else have):
        await tx.execute(
            "INSERT INTO note VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET version = $2, text = $3",
            event.id,
            event.version,
            event.text,
        )


REBUILDS = {NoteWritten: rebuild_note}


async def publish_all(world: World, *notes: NoteWritten) -> None:
    """Publish notes; return when the relay that does so has stopped again."""
    relay = Relay(world.alpha, await world.bus("alpha"))
    task = world.run(relay.run())
    await world.publish(*notes)

    async def published() -> bool:
        return not await world.alpha.fetchval("SELECT count(*) FROM outbox WHERE stream_sequence IS NULL")

    await eventually(published, "the notes are published")
    await ended(task)


async def restore(world: World, rows: int) -> None:
    """Restore alpha's database to the time when its outbox had so many rows."""
    await world.alpha.execute(
        "DELETE FROM outbox WHERE position NOT IN (SELECT position FROM outbox ORDER BY position LIMIT $1)", rows
    )


async def recovered(world: World, rebuilds: Any = REBUILDS) -> Recovery:
    bus = await world.bus("alpha")
    await bus.ready()
    return await recover(world.alpha, bus, (), rebuilds)


async def is_refused(world: World) -> bool:
    try:
        await refuse_if_behind("alpha", world.alpha, await world.bus("alpha"))
    except DatabaseBehind:
        return True
    return False


@pytest_asyncio.fixture
async def notes(world: World) -> World:
    await create_tables(world.alpha_fresh)
    return world


async def test_what_was_published_since_returns_to_the_outbox_and_is_rebuilt(notes: World) -> None:
    first, other = note("first"), note("other")
    await publish_all(notes, first, note("second", note_id=first.id, version=1), other)
    before = [tuple(row) for row in await notes.alpha.fetch(ROWS)]
    stream = await notes.stream()
    await restore(notes, 1)
    await notes.alpha.execute("INSERT INTO note VALUES ($1, 0, 'first')", first.id)
    assert await is_refused(notes)

    assert await recovered(notes) == Recovery(events=2)

    assert [tuple(row) for row in await notes.alpha.fetch(ROWS)] == before
    rebuilt = await notes.alpha.fetch("SELECT text FROM note ORDER BY text")
    assert [row["text"] for row in rebuilt] == ["other", "second"]
    assert not await is_refused(notes)
    await publish_all(notes, note("later"))
    assert (await notes.stream())[:-1] == stream
    assert await recovered(notes) == Recovery()


async def test_an_event_that_waited_in_the_outbox_is_not_published_again(notes: World) -> None:
    await publish_all(notes, *numbered(3))
    stream = await notes.stream()
    await restore(notes, 2)
    await notes.alpha.execute("UPDATE outbox SET stream_sequence = NULL WHERE stream_sequence = 2")

    assert await recovered(notes) == Recovery(events=1)

    assert await notes.published() == stream


async def test_copies_count_on_from_those_on_the_stream(notes: World) -> None:
    await publish_all(notes, note("once"))
    await notes.alpha.execute("UPDATE outbox SET stream_sequence = NULL, copies = copies + 1")
    await publish_all(notes)
    await restore(notes, 0)
    assert (await recovered(notes)).events == 1
    row = await notes.alpha.fetchrow("SELECT stream_sequence, copies FROM outbox")
    assert row is not None
    assert tuple(row) == (2, 1)


async def test_a_stream_that_was_created_again_since_is_read_from_its_beginning(notes: World) -> None:
    await publish_all(notes, *numbered(5))
    await (await notes.jetstream()).delete_stream("alpha")
    await notes.alpha.execute("UPDATE outbox SET stream_sequence = NULL")
    await publish_all(notes, note("note 5"))
    await restore(notes, 3)
    await notes.alpha.execute("UPDATE outbox SET stream_sequence = stream_sequence + 1000")
    assert await is_refused(notes)

    assert await recovered(notes) == Recovery(events=3)

    assert await notes.published() == await notes.stream()
    assert len(await notes.published()) == 6


async def test_an_event_waits_for_those_before_it_and_what_cannot_be_rebuilt_is_named(notes: World) -> None:
    late, incomplete = new_id(), new_id()
    await publish_all(notes, note("1", note_id=late, version=1), note("7", note_id=incomplete, version=7))
    await publish_all(notes, note("2", note_id=late, version=2), note("0", note_id=late))
    await restore(notes, 0)

    assert await recovered(notes) == Recovery(
        events=4, lost=[LostEvent("NoteWritten", incomplete, "version 0 is missing")]
    )

    kept = await notes.alpha.fetch("SELECT id, version FROM note")
    assert [tuple(row) for row in kept] == [(late, 2)]
    versions = await notes.alpha.fetch("SELECT aggregate, version FROM outbox ORDER BY version NULLS LAST")
    assert [tuple(row) for row in versions] == [(late, 0), (late, 1), (late, 2), (incomplete, None)]
    assert not await is_refused(notes)


async def test_an_interrupted_recovery_changes_nothing_and_is_run_again(notes: World) -> None:
    """An event that waited for another one would otherwise be passed over."""
    late = new_id()
    await publish_all(notes, note("1", note_id=late, version=1), note("bug"), note("0", note_id=late))
    await restore(notes, 0)

    async def interrupted(tx: Transaction, event: NoteWritten, recorded_at: datetime) -> None:
        if event.text == "bug":
            raise HandlerBroken("a bug")
        await rebuild_note(tx, event, recorded_at)

    with pytest.raises(HandlerBroken):
        await recovered(notes, {NoteWritten: interrupted})
    assert await notes.alpha.fetchval("SELECT count(*) FROM outbox") == 0

    assert await recovered(notes) == Recovery(events=3)
    assert await notes.alpha.fetchval("SELECT version FROM note WHERE id = $1", late) == 1


async def test_a_change_that_a_constraint_refuses_is_lost_and_no_other(notes: World) -> None:
    owner = await asyncpg.connect(notes.alpha_fresh.migrator_url)
    await owner.execute("CREATE UNIQUE INDEX ON note (text)")
    await owner.close()
    first, second = note("same"), note("same")
    await publish_all(notes, first, second, note("other"))
    await restore(notes, 0)
    result = await recovered(notes)
    assert [each.aggregate for each in result.lost] == [second.id]
    assert "duplicate key" in result.lost[0].reason
    assert await notes.alpha.fetchval("SELECT count(*) FROM note") == 2


async def test_an_event_of_a_later_release_returns_without_its_change(notes: World) -> None:
    bus = await notes.bus("alpha")
    await bus.ready()
    await bus.ensure_stream()
    later = wrap(new_id(), "alpha", "NoteErased", new_id(), now(), NoteErased(id=new_id()).encode(), None)
    await publish_message(bus, later.replace(b"NoteErased", b"NoteFolded"))
    result = await recovered(notes)
    assert (result.events, [each.type for each in result.lost]) == (1, ["NoteFolded"])
    assert await notes.alpha.fetchval("SELECT type FROM outbox") == "NoteFolded"


async def test_what_was_consumed_since_arrives_again(notes: World) -> None:
    await notes.relay()
    bus = await notes.bus("beta")
    consuming = notes.run(Inbox("beta", notes.beta, bus, {NoteWritten: note_effect}).run("alpha"))
    await notes.publish(*numbered(3))
    await eventually(notes.consumed(3), "beta consumes three notes")
    await ended(consuming)
    await notes.beta.execute("DELETE FROM effect WHERE text <> 'note 0'")
    await notes.beta.execute("DELETE FROM inbox WHERE received_at > (SELECT min(received_at) FROM inbox)")
    consumed = await notes.beta.fetchval("SELECT count(*) FROM inbox")

    for _ in range(2):  # an interrupted recovery is run again
        await recover(notes.beta, bus, ("alpha",), {})

    await notes.inbox()
    await eventually(notes.consumed(1 + 3 - consumed), "the others arrive again")


async def test_the_database_of_a_service_that_runs_is_left_alone(notes: World) -> None:
    relay = await notes.relay()

    async def leads() -> bool:
        return relay.is_leading

    await eventually(leads, "the relay runs")
    with pytest.raises(ServiceRuns):
        await recovered(notes)


async def test_a_new_a_lost_and_an_old_stream_are_no_reason_to_refuse(notes: World) -> None:
    assert not await is_refused(notes)
    await publish_all(notes, note("first"))
    assert not await is_refused(notes)
    await (await notes.jetstream()).delete_stream("alpha")
    assert not await is_refused(notes)
    bus = await notes.bus("alpha")
    await bus.ready()
    await bus.ensure_stream()
    assert not await is_refused(notes)
    pruned = note("pruned")
    a_week_ago = now() - timedelta(days=7)
    await publish_message(bus, wrap(new_id(), "alpha", "NoteWritten", pruned.id, a_week_ago, pruned.encode(), None))
    await publish_message(bus, b"no event")
    assert not await is_refused(notes)


async def test_the_check_waits_for_a_bus_that_is_away(notes: World) -> None:
    await publish_all(notes, note("first"))
    await restore(notes, 0)
    kill(notes.nats)
    checking = asyncio.create_task(is_refused(notes))
    await asyncio.wait([checking], timeout=0.1)
    assert not checking.done()
    await start_again(notes.nats)
    assert await checking


async def test_every_row_of_a_large_outbox_returns_in_order(notes: World) -> None:
    await publish_all(notes, *numbered(250))
    await restore(notes, 7)
    assert (await recovered(notes)).events == 243
    assert await notes.published() == list(enumerate(texts(250), start=1))


def test_a_rebuild_knows_the_next_version() -> None:
    assert is_next_version(note(version=0), -1)
    assert not is_next_version(note(version=2), 2)
    with pytest.raises(CannotRebuild, match="version 1 is missing"):
        is_next_version(note(version=2), 0)
