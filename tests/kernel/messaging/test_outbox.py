"""The relay: every committed event reaches the stream, in order, whatever happens to the bus or to the relay."""

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

ROOT = Path(__file__).parents[3]


async def test_events_are_published_in_order_and_their_sequence_is_stored(world: World) -> None:
    await world.relay()
    await world.inbox()

    await world.publish(*numbered(5))

    await eventually(world.consumed(5), "beta consumes five notes")
    assert await world.effects() == texts(5)
    assert await world.published() == list(enumerate(texts(5), start=1))
    assert await world.stream() == await world.published()


async def test_twelve_concurrent_writers_and_a_slow_one_skip_no_event(world: World) -> None:
    await world.relay()
    slow_began, others_are_published = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with world.alpha.transaction() as tx:
            tx.publish(note("slow"))
            await tx.write_events()  # gets its position in the outbox before all others
            slow_began.set()
            await others_are_published.wait()

    async def writer(number: int) -> None:
        for count in range(25):
            await world.publish(note(f"{number}:{count}"))

    late = world.run(slow())
    await slow_began.wait()
    await asyncio.gather(*(writer(number) for number in range(12)))
    await eventually(world.published_count(300), "the fast writers' notes are published")
    others_are_published.set()
    await late
    await eventually(world.published_count(301), "the slow writer's note is published, although its position is first")

    stream = [text for _, text in await world.stream()]
    assert len(stream) == len(set(stream)) == 301
    for number in range(12):
        assert [text for text in stream if text.startswith(f"{number}:")] == [f"{number}:{n}" for n in range(25)]
    assert stream[-1] == "slow"
    assert sorted(sequence for sequence, _ in await world.published()) == list(range(1, 302))


async def test_of_two_relays_one_publishes_and_the_other_takes_over_when_it_dies(world: World) -> None:
    await world.relay()
    await eventually(world.leading_session, "a relay leads")
    await world.relay(await world.database(world.alpha_fresh, "alpha"))
    count = 0
    for _round in range(3):
        for _ in range(20):
            await world.publish(*numbered(5, count))
            count += 5
        if _round < 2:
            await world.end_leading_session()
        await eventually(world.published_count(count), "every note is published by one of them")

    assert [text for _, text in await world.stream()] == texts(count)
    assert [sequence for sequence, _ in await world.published()] == list(range(1, count + 1))


async def test_a_process_whose_relay_stands_by_wakes_the_leading_one(world: World) -> None:
    await world.relay(await world.database(world.alpha_fresh, "alpha"))
    await eventually(world.leading_session, "a relay leads")
    await world.relay()

    await world.publish(note("from the process that stands by"))

    await eventually(world.published_count(1), "the other process published it")


async def test_a_deleted_stream_is_created_again_and_filled_from_the_outbox(world: World) -> None:
    await world.relay()
    await world.inbox()
    await world.publish(*numbered(10))
    await eventually(world.consumed(10), "beta consumes ten notes")

    await (await world.jetstream()).delete_stream("alpha")
    await eventually(world.stream_holds(texts(10)), "the stream is complete again")
    await world.publish(note("after"))

    await eventually(world.consumed(11), "beta goes on")
    assert await world.effects() == [*texts(10), "after"]


async def test_a_store_deleted_while_the_bus_is_down_is_filled_from_the_outbox(world: World) -> None:
    await world.relay()
    await world.inbox()
    await world.publish(*numbered(10))
    await eventually(world.consumed(10), "beta consumes ten notes")

    await restarted(world.nats, wipe)
    await world.publish(note("after"))

    await eventually(world.consumed(11), "beta goes on")
    await eventually(world.stream_holds([*texts(10), "after"]), "the stream is complete again")
    assert await world.effects() == [*texts(10), "after"]


async def test_a_bus_restored_from_an_old_copy_gets_back_what_it_lost(world: World, folder: Path) -> None:
    await world.relay()
    await world.inbox()
    await world.publish(*numbered(5))
    await eventually(world.consumed(5), "beta consumes five notes")

    await restarted(world.nats, lambda store: shutil.copytree(store, folder / "copy"))
    await world.publish(*numbered(5, 5))
    await eventually(world.consumed(10), "beta consumes five more")

    await restarted(world.nats, lambda store: roll_back(store, folder / "copy"))
    await world.publish(*numbered(5, 10))

    await eventually(world.consumed(15), "beta goes on")
    assert await world.effects() == texts(15)
    await eventually(world.all_are_on_the_stream(15), "the stream holds all notes")


async def test_events_the_client_buffered_do_not_hide_that_the_bus_was_rolled_back(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client sends them before the relay can compare, and they would take the sequences of the lost events."""
    monkeypatch.setattr(outbox, "_ACKNOWLEDGED_WITHIN_SECONDS", 60.0)
    relay = await world.relay()
    await world.publish(*numbered(5))
    await eventually(world.published_count(5), "five notes are published")
    await restarted(world.nats, lambda store: shutil.copytree(store, folder / "copy"))
    await world.publish(*numbered(5, 5))
    await eventually(world.published_count(10), "five more are published")

    kill(world.nats)
    await eventually(lambda: is_disconnected(relay), "the client notices that the bus is down")
    await world.publish(*numbered(5, 10))
    await eventually(lambda: awaits_acknowledgements(relay, 5), "the client buffers five notes")
    roll_back(world.nats.folder / "store", folder / "copy")
    await start_again(world.nats)

    await eventually(world.all_are_on_the_stream(15), "the stream holds all notes")
    await world.inbox()
    await eventually(world.consumed(15), "a consumer created later misses nothing")
    assert sorted(await world.effects()) == sorted(texts(15))


async def test_a_rollback_that_only_the_sequences_show_is_noticed(world: World) -> None:
    """Without a reconnect or a comparison in between: the stream was created again and counts from 1."""
    await world.relay(compare_every_seconds=3600)
    await world.publish(*numbered(5))
    await eventually(world.published_count(5), "five notes are published")
    jetstream = await world.jetstream()
    config = (await jetstream.stream_info("alpha")).config

    await jetstream.delete_stream("alpha")
    await jetstream.add_stream(config)
    await world.publish(note("after"))

    await eventually(world.all_are_on_the_stream(6), "what the stream lost was published again")


async def test_single_messages_deleted_from_the_stream_are_published_again(world: World) -> None:
    await world.relay()
    await world.publish(*numbered(10))
    await eventually(world.published_count(10), "ten notes are published")

    for sequence in (3, 7, 10):
        await (await world.jetstream()).delete_msg("alpha", sequence)
    await eventually(world.all_are_on_the_stream(10), "the stream holds all ten again")

    await world.inbox()
    await eventually(world.consumed(10), "a consumer created later misses nothing")
    assert sorted(await world.effects()) == texts(10)


async def test_a_purged_stream_is_filled_again_and_a_late_replica_converges(world: World) -> None:
    await world.relay()
    first = note("one")
    await world.publish(first, *(note(f"version {v}", note_id=first.id, version=v) for v in range(1, 4)))
    await eventually(world.published_count(4), "four events are published")

    await (await world.jetstream()).purge_stream("alpha")
    await world.inbox(replicate)

    await eventually(world.consumed(4), "the replica has every version")
    assert await world.effects() == ["one", "version 1", "version 2", "version 3"]


async def test_replay_publishes_every_event_again_and_none_has_a_second_effect(world: World) -> None:
    await world.relay()
    await world.inbox()
    await world.publish(*numbered(5))
    await eventually(world.consumed(5), "beta consumes five notes")

    assert await replay(world.alpha) == 5
    await eventually(world.stream_holds([*texts(5), *texts(5)]), "the stream holds each note twice")
    await world.publish(note("last"))

    await eventually(world.consumed(6), "beta has received the copies")
    assert await world.effects() == [*texts(5), "last"]


async def test_an_aggregate_is_published_again_on_request_above_a_version(world: World) -> None:
    await world.relay()
    first, other = note("v0"), note("other")
    await world.publish(first, note("v1", note_id=first.id, version=1), other)
    await eventually(world.published_count(3), "three events are published")

    beta = await world.bus("beta")
    await beta.ready()
    await beta.request_republish("alpha", RepublishRequest(first.id, 0))

    await eventually(world.stream_holds(["v0", "v1", "other", "v1"]), "only the version above 0 was published again")


async def test_s01_events_committed_while_the_bus_is_down_are_published_when_it_is_up(world: World) -> None:
    kill(world.nats)
    await world.relay()
    await world.inbox()
    await world.publish(*numbered(3))

    await start_again(world.nats)
    await eventually(world.consumed(3), "beta consumes what was published before the bus was up")

    kill(world.nats)
    await world.publish(*numbered(3, 3))
    await start_again(world.nats)
    await eventually(world.consumed(6), "beta consumes what was published while the bus was down")
    assert await world.effects() == texts(6)


async def test_s02_a_process_that_dies_between_commit_and_publication_loses_nothing(world: World) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.kernel.commits_and_exits", world.alpha_fresh.url, cwd=ROOT
    )
    assert await child.wait() == 17
    await world.inbox()
    assert await world.published() == []

    await world.relay()

    await eventually(world.consumed(1), "the next process published it")
    assert await world.effects() == ["committed before the exit"]


async def test_events_in_flight_when_the_bus_dies_are_sent_again_as_soon_as_it_is_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_ACKNOWLEDGED_WITHIN_SECONDS", 60.0)
    relay = await world.relay()
    await world.publish(note("before"))
    await eventually(world.published_count(1), "the relay publishes")
    os.kill(world.nats.pid, signal.SIGSTOP)
    await world.publish(note("in flight"))
    await eventually(lambda: awaits_acknowledgements(relay, 1), "the relay waits for the acknowledgement")

    kill(world.nats)
    await start_again(world.nats)

    await eventually(world.published_count(2), "the relay does not wait for the lost acknowledgement")
    assert [text for _, text in await world.stream()] == ["before", "in flight"]


async def test_a_stopped_process_loses_its_lock_to_a_running_relay(world: World) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.kernel.relays_until_killed", world.alpha_fresh.url, world.nats.url("alpha")),
        cwd=ROOT,
    )
    try:
        await eventually(world.leading_session, "the relay of the other process leads")
        await world.publish(note("before"))
        await eventually(world.published_count(1), "it publishes")

        child.send_signal(signal.SIGSTOP)
        await world.publish(note("meanwhile"))
        await world.relay()
        await eventually(world.published_count(2), "ours has the lock and publishes")

        child.send_signal(signal.SIGCONT)
        await world.publish(note("after"))
        await eventually(world.stream_holds(["before", "meanwhile", "after"]), "every note is published once")
    finally:
        child.kill()
        await child.wait()


async def test_a_transaction_that_is_rolled_back_publishes_nothing(world: World) -> None:
    await world.relay()

    async def rolled_back() -> None:
        async with world.alpha.transaction() as tx:
            tx.publish(note("never"))
            await tx.write_events()
            assert 1 // 0

    with pytest.raises(ZeroDivisionError):
        await rolled_back()
    await world.publish(note("after"))

    await eventually(world.published_count(1), "the next note is published")
    assert [text for _, text in await world.stream()] == ["after"]


async def test_the_stream_keeps_events_longer_than_the_outbox_and_limits_their_size(world: World) -> None:
    await world.relay()
    await world.publish(note("one"))
    await eventually(world.published_count(1), "a note is published")

    config = (await (await world.jetstream()).stream_info("alpha")).config

    assert config.max_age == 8 * 24 * 3600
    assert config.duplicate_window == 120
    assert config.max_msg_size == 64 * 1024
    assert config.storage == "file"
    assert config.subjects == ["events.alpha.>"]


async def test_a_stream_without_room_loses_its_oldest_events_once_they_are_consumed(world: World) -> None:
    """Eight times as many events as it has room for are consumed once each, while it stays below its limit."""
    world.stream_bytes_max = 256 * 1024
    relay = await world.relay()
    relay.removed_max = 100
    await world.inbox()
    for number in range(20):
        await world.publish(*(note(f"{number} {each} {'x' * 1000}") for each in range(100)))
        await eventually(world.consumed((number + 1) * 100), "beta consumes the notes")
        state = (await (await world.jetstream()).stream_info("alpha")).state
        assert state.bytes <= world.stream_bytes_max
    consumed = [text.split()[:2] for text in await world.effects()]
    assert sorted(consumed) == sorted([str(number), str(each)] for number in range(20) for each in range(100))

    async def are_equal() -> bool:
        return [text for _, text in await world.published()] == [text for _, text in await world.stream()]

    await eventually(are_equal, "events are removed from the stream and from the outbox, so that none counts as lost")


async def test_with_an_event_the_earlier_ones_of_its_aggregate_are_removed(world: World) -> None:
    """A copy of an earlier version, published again, comes later in the stream."""
    relay = await world.relay()
    await world.inbox()
    first = note("v0")
    await world.publish(first, *(note(f"v{v}", note_id=first.id, version=v) for v in range(1, 4)))
    await eventually(world.published_count(4), "four events are published")
    await (await world.jetstream()).delete_msg("alpha", 2)
    await eventually(world.stream_holds(["v0", "v2", "v3", "v1"]), "version 1 is published again")
    await eventually(world.consumed(4), "beta has consumed all")

    world.stream_bytes_max = 1
    relay._bus = await world.bus("alpha")
    relay.removed_max = 3
    await relay._bus.ready()

    async def are_removed() -> bool:
        return [text for _, text in await world.published()] == ["v3"]

    await eventually(are_removed, "up to version 2")


async def test_a_full_stream_keeps_what_a_service_has_not_consumed(world: World) -> None:
    world.stream_bytes_max = 128 * 1024
    await world.relay()
    admin = await world.jetstream()
    await world.publish(*(note(f"{each} {'x' * 1000}") for each in range(300)))

    async def is_full() -> bool:
        return (await admin.stream_info("alpha")).state.bytes > 0.98 * world.stream_bytes_max

    await eventually(is_full, "the stream is full")
    await world.inbox()

    await eventually(world.consumed(300), "beta consumes what waited for room")
    assert [int(text.split()[0]) for text in await world.effects()] == list(range(300))


async def test_an_event_too_large_for_the_bus_is_never_committed(world: World) -> None:
    await world.relay()

    with pytest.raises(AssertionError, match="too large"):
        await world.publish(note("x" * 100_000))
    await world.publish(note("small"))

    await eventually(world.published_count(1), "smaller events are published")
    assert [json.loads(row["data"])["text"] for row in await world.alpha.fetch("SELECT data FROM outbox")] == ["small"]


async def is_disconnected(relay: Relay) -> bool:
    return not relay._bus.is_connected


async def awaits_acknowledgements(relay: Relay, count: int) -> bool:
    return len(relay._bus._acks) == count


def wipe(store: Path) -> None:
    shutil.rmtree(store)


def roll_back(store: Path, copy: Path) -> None:
    wipe(store)
    shutil.copytree(copy, store)


async def restarted(nats: Nats, meanwhile: Callable[[Path], object]) -> None:
    """Kill the bus, change its store, and start it again on the same port."""
    kill(nats)
    meanwhile(nats.folder / "store")
    await start_again(nats)
