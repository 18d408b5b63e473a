"""The relay: everything that was committed reaches the stream, in order, whatever happens to the bus or to it."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from admitone.kernel.messaging import outbox
from admitone.kernel.messaging.bus import RepublishRequest
from admitone.kernel.messaging.outbox import Relay, replay
from admitone.local.nats import Nats
from tests.kernel.support import World, kill, note, numbered, replicate, start_again, texts
from tests.support import eventually


async def test_what_was_told_is_published_in_order_and_its_sequence_stored(world: World) -> None:
    await world.relay()
    await world.inbox()

    await world.tell(*numbered(5))

    await eventually(world.took_in(5), "beta took in five notes")
    assert await world.effects() == texts(5)
    assert await world.published() == list(enumerate(texts(5), start=1))
    assert await world.stream() == await world.published()


async def test_twelve_concurrent_writers_and_a_slow_one_skip_nothing(world: World) -> None:
    await world.relay()
    slow_began, others_are_out = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with world.alpha.transaction() as tx:
            tx.publish(note("slow"))
            await tx.write_events()  # takes its place in the outbox, before all others
            slow_began.set()
            await others_are_out.wait()

    async def writer(number: int) -> None:
        for count in range(25):
            await world.tell(note(f"{number}:{count}"))

    late = world.run(slow())
    await slow_began.wait()
    await asyncio.gather(*(writer(number) for number in range(12)))
    await eventually(world.published_count(300), "the fast writers' notes are out")
    others_are_out.set()
    await late
    await eventually(world.published_count(301), "the slow writer's note is out, though its place is the first")

    stream = [text for _, text in await world.stream()]
    assert len(stream) == len(set(stream)) == 301
    for number in range(12):
        assert [text for text in stream if text.startswith(f"{number}:")] == [f"{number}:{n}" for n in range(25)]
    assert stream[-1] == "slow"
    assert sorted(sequence for sequence, _ in await world.published()) == list(range(1, 302))


async def test_of_two_relays_one_publishes_and_the_other_takes_over_when_it_dies(world: World) -> None:
    first = await world.relay()
    await eventually(world.leading_session, "a relay leads")
    second = await world.relay(await world.database(world.alpha_fresh, "alpha"))
    told = 0
    for _round in range(3):
        for _ in range(20):
            await world.tell(*numbered(5, told))
            told += 5
        if _round < 2:
            await world.end_leading_session()
        await eventually(world.published_count(told), "everything is out, whoever leads")

    assert first.is_alive
    assert second.is_alive
    assert [text for _, text in await world.stream()] == texts(told)
    assert [sequence for sequence, _ in await world.published()] == list(range(1, told + 1))


async def test_a_standing_by_relay_is_woken_by_the_other_process(world: World) -> None:
    await world.relay(await world.database(world.alpha_fresh, "alpha"))
    await eventually(world.leading_session, "a relay leads")
    await world.relay()

    await world.tell(note("from the process that stands by"))

    await eventually(world.published_count(1), "the other process published it")


async def test_a_deleted_stream_is_made_again_and_filled_from_the_outbox(world: World) -> None:
    await world.relay()
    await world.inbox()
    await world.tell(*numbered(10))
    await eventually(world.took_in(10), "beta took in ten notes")

    await world.ask("$JS.API.STREAM.DELETE.alpha", {})
    await eventually(world.stream_holds(texts(10)), "the stream is full again")
    await world.tell(note("after"))

    await eventually(world.took_in(11), "beta goes on")
    assert await world.effects() == [*texts(10), "after"]


async def test_a_store_deleted_while_the_bus_is_killed_is_filled_from_the_outbox(world: World) -> None:
    await world.relay()
    await world.inbox()
    await world.tell(*numbered(10))
    await eventually(world.took_in(10), "beta took in ten notes")

    await restarted(world.nats, wipe)
    await world.tell(note("after"))

    await eventually(world.took_in(11), "beta goes on")
    await eventually(world.stream_holds([*texts(10), "after"]), "the stream is full again")
    assert await world.effects() == [*texts(10), "after"]


async def test_a_bus_rolled_back_to_an_old_copy_gets_back_what_it_lost(world: World, folder: Path) -> None:
    await world.relay()
    await world.inbox()
    await world.tell(*numbered(5))
    await eventually(world.took_in(5), "beta took in five notes")

    await restarted(world.nats, lambda store: shutil.copytree(store, folder / "copy"))
    await world.tell(*numbered(5, 5))
    await eventually(world.took_in(10), "beta took in five more")

    await restarted(world.nats, lambda store: roll_back(store, folder / "copy"))
    await world.tell(*numbered(5, 10))

    await eventually(world.took_in(15), "beta goes on")
    assert await world.effects() == texts(15)
    await eventually(world.all_are_on_the_stream(15), "the stream holds all notes")


async def test_what_was_held_back_for_a_bus_does_not_hide_that_it_was_rolled_back(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client sends it before anybody can compare, and it would take the numbers of what was lost."""
    monkeypatch.setattr(outbox, "_ACKNOWLEDGED_WITHIN_SECONDS", 60.0)
    relay = await world.relay()
    await world.tell(*numbered(5))
    await eventually(world.published_count(5), "five notes are out")
    await restarted(world.nats, lambda store: shutil.copytree(store, folder / "copy"))
    await world.tell(*numbered(5, 5))
    await eventually(world.published_count(10), "five more are out")

    kill(world.nats)
    await eventually(lambda: is_unreachable(relay), "the client knows that the bus is away")
    await world.tell(*numbered(5, 10))
    await eventually(lambda: holds_back(relay, 5), "the client holds five notes back")
    roll_back(world.nats.folder / "store", folder / "copy")
    await start_again(world.nats)

    await eventually(world.all_are_on_the_stream(15), "the stream holds all notes")
    await world.inbox()
    await eventually(world.took_in(15), "somebody who joins later misses nothing")
    assert sorted(await world.effects()) == sorted(texts(15))


async def test_a_rollback_that_only_the_numbers_show_is_noticed(world: World) -> None:
    """No reconnection, no comparison in between: the stream was made anew and numbers from 1 again."""
    await world.relay(compare_every_seconds=3600)
    await world.tell(*numbered(5))
    await eventually(world.published_count(5), "five notes are out")
    config = (await world.ask("$JS.API.STREAM.INFO.alpha", {}))["config"]

    await world.ask("$JS.API.STREAM.DELETE.alpha", {})
    await world.ask("$JS.API.STREAM.CREATE.alpha", config)
    await world.tell(note("after"))

    await eventually(world.all_are_on_the_stream(6), "what the stream lost was published again")


async def test_single_messages_deleted_from_the_stream_are_published_again(world: World) -> None:
    await world.relay()
    await world.tell(*numbered(10))
    await eventually(world.published_count(10), "ten notes are out")

    for sequence in (3, 7, 10):
        await world.ask("$JS.API.STREAM.MSG.DELETE.alpha", {"seq": sequence})
    await eventually(world.all_are_on_the_stream(10), "the stream holds all ten again")

    await world.inbox()
    await eventually(world.took_in(10), "somebody who joins later misses nothing")
    assert sorted(await world.effects()) == texts(10)


async def test_a_purged_stream_is_filled_again_and_a_late_replica_converges(world: World) -> None:
    await world.relay()
    first = note("one")
    await world.tell(first, *(note(f"version {v}", note_id=first.id, version=v) for v in range(1, 4)))
    await eventually(world.published_count(4), "four events are out")

    await world.ask("$JS.API.STREAM.PURGE.alpha", {})
    await world.inbox(replicate)

    await eventually(world.took_in(4), "the replica has every version")
    assert await world.effects() == ["one", "version 1", "version 2", "version 3"]


async def test_replay_publishes_everything_again_and_nothing_happens_twice(world: World) -> None:
    await world.relay()
    await world.inbox()
    await world.tell(*numbered(5))
    await eventually(world.took_in(5), "beta took in five notes")

    assert await replay(world.alpha) == 5
    await eventually(world.stream_holds([*texts(5), *texts(5)]), "the stream holds each note twice")
    await world.tell(note("last"))

    await eventually(world.took_in(6), "beta went through the copies")
    assert await world.effects() == [*texts(5), "last"]


async def test_an_aggregate_is_published_again_on_request_above_a_version(world: World) -> None:
    await world.relay()
    first, other = note("v0"), note("other")
    await world.tell(first, note("v1", note_id=first.id, version=1), other)
    await eventually(world.published_count(3), "three events are out")

    beta = await world.bus("beta")
    await beta.ready()
    await beta.request_republish("alpha", RepublishRequest(first.id, 0))

    await eventually(world.stream_holds(["v0", "v1", "other", "v1"]), "only the version above 0 came again")


async def test_s01_events_told_while_the_bus_is_away_are_published_when_it_comes(world: World) -> None:
    kill(world.nats)
    relay = await world.relay()
    await world.inbox()
    await world.tell(*numbered(3))
    assert relay.is_alive, "waiting for the bus is no illness"

    await start_again(world.nats)
    await eventually(world.took_in(3), "beta took in what was told before the bus came")

    kill(world.nats)
    await world.tell(*numbered(3, 3))
    await start_again(world.nats)
    await eventually(world.took_in(6), "beta took in what was told while the bus was away")
    assert await world.effects() == texts(6)


async def test_s02_a_process_that_dies_between_commit_and_publish_loses_nothing(world: World) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.kernel.dies_after_commit", world.alpha_fresh.url, cwd=Path(__file__).parents[2]
    )
    assert await child.wait() == 17
    await world.inbox()
    assert await world.published() == []

    await world.relay()

    await eventually(world.took_in(1), "the next process published it")
    assert await world.effects() == ["told by the dead"]


async def test_what_was_on_its_way_when_the_bus_died_is_sent_again_as_soon_as_that_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_ACKNOWLEDGED_WITHIN_SECONDS", 60.0)
    relay = await world.relay()
    await world.tell(note("before"))
    await eventually(world.published_count(1), "the relay publishes")
    os.kill(world.nats.pid, signal.SIGSTOP)
    await world.tell(note("on its way"))
    await eventually(lambda: holds_back(relay, 1), "the relay waits for an answer")

    kill(world.nats)
    await start_again(world.nats)

    await eventually(world.published_count(2), "it does not wait for the answer of the dead")
    assert [text for _, text in await world.stream()] == ["before", "on its way"]


async def test_a_relay_that_stands_still_loses_its_lock_to_one_that_runs(world: World) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.kernel.stands_still", world.alpha_fresh.url, world.nats.url("alpha")),
        cwd=Path(__file__).parents[2],
    )
    try:
        await eventually(world.leading_session, "the relay of the other process leads")
        await world.tell(note("before"))
        await eventually(world.published_count(1), "it publishes")

        child.send_signal(signal.SIGSTOP)
        await world.tell(note("meanwhile"))
        await world.relay()
        await eventually(world.published_count(2), "ours has the lock and publishes")

        child.send_signal(signal.SIGCONT)
        await world.tell(note("after"))
        await eventually(world.stream_holds(["before", "meanwhile", "after"]), "all is published, and once")
    finally:
        child.kill()
        await child.wait()


async def test_a_transaction_rolled_back_tells_nothing(world: World) -> None:
    await world.relay()

    async def changes_its_mind() -> None:
        async with world.alpha.transaction() as tx:
            tx.publish(note("never"))
            await tx.write_events()
            assert 1 // 0

    with pytest.raises(ZeroDivisionError):
        await changes_its_mind()
    await world.tell(note("after"))

    await eventually(world.published_count(1), "the next note is out")
    assert [text for _, text in await world.stream()] == ["after"]


async def test_the_stream_outlives_the_outbox_and_keeps_each_message_small(world: World) -> None:
    await world.relay()
    await world.tell(note("one"))
    await eventually(world.published_count(1), "a note is out")

    config = (await world.ask("$JS.API.STREAM.INFO.alpha", {}))["config"]

    assert config["max_age"] == 8 * 24 * 3600 * 10**9
    assert config["duplicate_window"] == 120 * 10**9
    assert config["max_msg_size"] == 64 * 1024
    assert config["storage"] == "file"
    assert config["subjects"] == ["events.alpha.>"]


async def test_an_event_too_large_for_the_bus_is_never_committed(world: World) -> None:
    await world.relay()

    with pytest.raises(AssertionError, match="too large"):
        await world.tell(note("x" * 100_000))
    await world.tell(note("small"))

    await eventually(world.published_count(1), "smaller events go on")
    assert [json.loads(row["data"])["text"] for row in await world.alpha.fetch("SELECT data FROM outbox")] == ["small"]


async def is_unreachable(relay: Relay) -> bool:
    return not relay._bus.is_connected


async def holds_back(relay: Relay, events: int) -> bool:
    return len(relay._bus._acks) == events


def wipe(store: Path) -> None:
    shutil.rmtree(store)


def roll_back(store: Path, copy: Path) -> None:
    wipe(store)
    shutil.copytree(copy, store)


async def restarted(nats: Nats, meanwhile: Callable[[Path], object]) -> None:
    """Kill the bus, do something to its store, and start it again on the same port."""
    kill(nats)
    meanwhile(nats.folder / "store")
    await start_again(nats)
