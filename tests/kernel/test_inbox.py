"""The inbox: every event has its effect once, and one bad event stops no other."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from admitone.kernel.clock import now
from admitone.kernel.database.pool import UNREACHABLE, Transaction
from admitone.kernel.errors import Unavailable
from admitone.kernel.ids import new_id
from admitone.kernel.messaging import dead_letters
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import Undecodable, unwrap, wrap
from admitone.kernel.messaging.inbox import BatchHandler, Inbox, MissingEvents, ReceivedEvent
from admitone.kernel.tracing import current_traceparent, trace_span
from admitone.local.postgres import Postgres
from tests import engines
from tests.kernel.support import (
    SHORT_DELAYS_SECONDS,
    NoteCopied,
    NoteWritten,
    World,
    kill,
    note,
    note_effect,
    numbered,
    own_tables,
    replicate,
    start_again,
    texts,
)
from tests.support import eventually


class HandlerBroken(Exception):
    pass


async def fails_on_poison(tx: Transaction, event: NoteWritten) -> None:
    await note_effect(tx, event)
    if event.text == "poison":
        raise HandlerBroken("cannot stomach this")


async def tells_on(tx: Transaction, event: NoteWritten) -> None:
    await note_effect(tx, event)
    tx.publish(NoteCopied(id=event.id))
    if event.text == "poison":
        raise HandlerBroken


@pytest_asyncio.fixture
async def alpha_bus(world: World) -> AsyncIterator[Bus]:
    """Publishes as alpha without its relay, once alpha's stream is there."""
    bus = await world.bus("alpha")
    await bus.ready()
    await bus.ensure_stream()
    yield bus


def enveloped(event: NoteWritten, event_id: UUID | None = None, trace: str | None = None) -> bytes:
    return wrap(event_id or new_id(), "alpha", "NoteWritten", event.id, now(), event.encode(), trace)


async def publish(bus: Bus, message: bytes) -> None:
    await (await bus.publish("events.alpha.NoteWritten", message, str(new_id())))


async def dead_letters(world: World) -> list[dead_letters.DeadLetter]:
    return await dead_letters.find_all(world.beta)


async def everything_acknowledged(world: World) -> bool:
    info = await world.ask("$JS.API.CONSUMER.INFO.alpha.beta", {})
    return info.get("num_ack_pending") == info.get("num_pending") == 0


async def test_s03_an_event_delivered_five_times_has_one_effect(world: World, alpha_bus: Bus) -> None:
    once = note("once")
    event_id = new_id()
    for _ in range(5):
        await publish(alpha_bus, enveloped(once, event_id))
    await publish(alpha_bus, enveloped(note("last")))

    await world.inbox()

    await eventually(world.took_in(2), "beta took in both notes")
    await eventually(lambda: everything_acknowledged(world), "every copy is acknowledged")
    assert await world.effects() == ["once", "last"]


async def test_s03_a_consumer_made_anew_hears_everything_again_without_effect(world: World) -> None:
    await world.relay()
    await world.inbox()
    await world.tell(*numbered(20))
    await eventually(world.took_in(20), "beta took in twenty notes")

    await world.ask("$JS.API.CONSUMER.DELETE.alpha.beta", {})
    await world.tell(note("after"))

    await eventually(world.took_in(21), "beta goes on with a new consumer")
    await eventually(lambda: everything_acknowledged(world), "the old ones are acknowledged again")
    assert await world.effects() == [*texts(20), "after"]


async def test_what_was_delivered_and_never_acknowledged_comes_again_soon_and_without_end(world: World) -> None:
    await world.relay()
    await world.tell(note("one"))
    await eventually(world.published_count(1), "there is a stream")
    older = {"durable_name": "beta", "ack_policy": "explicit", "ack_wait": 30 * 10**9, "max_deliver": 5}
    await world.ask("$JS.API.CONSUMER.DURABLE.CREATE.alpha.beta", {"stream_name": "alpha", "config": older})
    await world.inbox()
    await eventually(world.took_in(1), "beta listens, by a consumer that an older version has made")

    config = (await world.ask("$JS.API.CONSUMER.INFO.alpha.beta", {}))["config"]

    assert config["ack_wait"] == 10 * 10**9
    assert config["max_deliver"] == -1
    assert config["ack_policy"] == "explicit"


async def test_an_event_committed_but_not_acknowledged_has_one_effect(world: World, alpha_bus: Bus) -> None:
    """What a process took in before it died comes again to the next one."""
    message = enveloped(note("once"))
    await publish(alpha_bus, message)
    died = Inbox("beta", world.beta, await world.bus("beta"), {NoteWritten: note_effect})
    async with world.beta.transaction() as tx:
        await died.consume(tx, [unwrap(message)])

    await world.inbox()

    await eventually(lambda: everything_acknowledged(world), "the copy is acknowledged")
    assert await world.effects() == ["once"]


async def test_the_usual_events_of_a_batch_are_taken_together_and_every_other_one_alone(world: World) -> None:
    together: list[int] = []

    async def begin_notes(
        tx: Transaction, heard: Sequence[ReceivedEvent[NoteWritten]]
    ) -> dict[UUID, NoteCopied | None]:
        together.append(len(heard))
        assert len({each.event.id for each in heard}) == len(heard)
        usual = [each.event for each in heard if each.event.version == 0]
        for event in usual:
            await replicate(tx, event)
        return {event.id: NoteCopied(id=event.id) for event in usual}

    inbox = Inbox("beta", world.beta, await world.bus("beta"), {NoteWritten: BatchHandler(begin_notes, replicate)})
    one, two, three = note("one v0"), note("two v0"), note("three v0")
    later = [note(f"{name} v1", note_id=each.id, version=1) for name, each in (("one", one), ("two", two))]
    early = note("four v2", version=2)
    trace = f"00-{'1' * 32}-{'2' * 16}-01"
    messages = [enveloped(each, trace=trace) for each in (one, two, later[0], three, later[1], early)]
    async with world.beta.transaction() as tx:
        missing = await inbox.consume(tx, [unwrap(each) for each in (*messages, messages[0])])
    assert list(missing) == [5]
    assert together == [4, 2, 1]  # first and second news of each note, and once more what had to wait
    assert sorted(await world.effects()) == ["one v0", "one v1", "three v0", "two v0", "two v1"]
    told = await world.beta.fetch("SELECT aggregate, traceparent FROM outbox")
    assert {row["aggregate"] for row in told} == {one.id, two.id, three.id}
    assert {row["traceparent"].split("-")[1] for row in told} == {"1" * 32}


async def test_an_event_that_waits_for_one_behind_it_in_the_batch_is_taken_with_it(world: World) -> None:
    inbox = Inbox("beta", world.beta, await world.bus("beta"), {NoteWritten: replicate})
    first = note("v0")
    then = note("v1", note_id=first.id, version=1)
    async with world.beta.transaction() as tx:
        assert await inbox.consume(tx, [unwrap(enveloped(each)) for each in (then, first)]) == {}
    assert await world.effects() == ["v0", "v1"]


async def test_s15_a_failing_handler_stops_no_other_event_and_ends_as_a_dead_letter(
    world: World, alpha_bus: Bus
) -> None:
    for text in ("one", "poison", "two", "three"):
        await publish(alpha_bus, enveloped(note(text)))

    await world.inbox(fails_on_poison, delays_seconds=SHORT_DELAYS_SECONDS)

    await eventually(world.took_in(3), "the others are taken in")
    [letter] = await eventually(lambda: dead_letters(world), "the poison is a dead letter")
    assert await world.effects() == ["one", "two", "three"]
    assert letter.attempts == 5
    assert letter.error == "HandlerBroken: cannot stomach this"
    assert letter.subject == "events.alpha.NoteWritten"
    await eventually(lambda: everything_acknowledged(world), "the bus is rid of it")


async def test_one_that_fails_among_many_costs_them_few_transactions(world: World, alpha_bus: Bus) -> None:
    for number in range(64):
        await publish(alpha_bus, enveloped(note("poison" if number == 40 else f"note {number}")))
    transactions: set[int] = set()

    async def handler(tx: Transaction, event: NoteWritten) -> None:
        transactions.add(await tx.fetchval("SELECT pg_current_xact_id()::text::bigint"))
        if event.text == "poison":
            raise ValueError("cannot take this")
        await note_effect(tx, event)

    await world.inbox(handler, delays_seconds=(60.0,))

    await eventually(world.took_in(63), "all others have their effect")
    assert sorted(await world.effects()) == sorted(f"note {number}" for number in range(64) if number != 40)
    # Seven halvings and the batches they arrived in; one by one it would be more than sixty.
    assert len(transactions) < 32


async def test_s15_a_dead_letter_can_be_retried_once_the_handler_is_mended(world: World, alpha_bus: Bus) -> None:
    await publish(alpha_bus, enveloped(note("poison")))
    await world.inbox(fails_on_poison, delays_seconds=SHORT_DELAYS_SECONDS)
    [letter] = await eventually(lambda: dead_letters(world), "the poison is a dead letter")

    broken = await world.inbox(fails_on_poison)
    with pytest.raises(HandlerBroken):
        await dead_letters.retry(world.beta, broken, letter)
    assert await dead_letters(world) == [letter]
    assert await world.effects() == []

    mended = await world.inbox(note_effect)
    await dead_letters.retry(world.beta, mended, letter)
    assert await world.effects() == ["poison"]
    assert await dead_letters(world) == []

    await dead_letters.retry(world.beta, mended, letter)
    assert await world.effects() == ["poison"], "a second retry changes nothing"


async def test_an_event_whose_handler_is_mended_in_time_never_becomes_a_dead_letter(
    world: World, alpha_bus: Bus
) -> None:
    tries = itertools.count(1)

    async def fails_three_times(tx: Transaction, event: NoteWritten) -> None:
        await note_effect(tx, event)
        if next(tries) <= 3:
            raise HandlerBroken

    await publish(alpha_bus, enveloped(note("in the end")))
    await world.inbox(fails_three_times, delays_seconds=SHORT_DELAYS_SECONDS)

    await eventually(world.took_in(1), "the fourth try succeeds")
    assert await world.effects() == ["in the end"]
    assert await world.beta.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_a_dead_letter_that_is_delivered_again_and_succeeds_is_forgotten(world: World, alpha_bus: Bus) -> None:
    is_mended = False

    async def mended_later(tx: Transaction, event: NoteWritten) -> None:
        await note_effect(tx, event)
        if not is_mended:
            raise HandlerBroken

    message = enveloped(note("healed"))
    await publish(alpha_bus, message)
    await world.inbox(mended_later, delays_seconds=SHORT_DELAYS_SECONDS)
    await eventually(lambda: dead_letters(world), "it is a dead letter")

    is_mended = True
    await publish(alpha_bus, message)

    await eventually(world.took_in(1), "the copy is taken in")
    assert await dead_letters(world) == []


async def test_a_bug_that_asyncpg_notices_itself_is_a_failure_and_no_absence(world: World, alpha_bus: Bus) -> None:
    async def passes_one_too_many(tx: Transaction, event: NoteWritten) -> None:
        await tx.execute("SELECT $1::text", event.text, event.id)

    await publish(alpha_bus, enveloped(note("one too many")))
    await world.inbox(passes_one_too_many, delays_seconds=SHORT_DELAYS_SECONDS)

    [letter] = await eventually(lambda: dead_letters(world), "it is a dead letter")
    assert letter.error.startswith("InterfaceError")


async def test_s15_messages_that_are_no_events_are_dead_letters_at_once(world: World, alpha_bus: Bus) -> None:
    bad = {
        "empty": b"",
        "cut short": b"{",
        "no text": b"\xff\xfe",
        "deep": b"[" * 3000,
        "no event": b'{"specversion":"1.0"}',
        "unknown type": enveloped(note("x")).replace(b"NoteWritten", b"NeverHeardOf"),
        "wrong field": enveloped(note("x")).replace(b'"version":0', b'"version":"zero"'),
        "wrong id": enveloped(note("x")).replace(b'"id":"', b'"id":"zz'),
    }
    for message in bad.values():
        await publish(alpha_bus, message)
    await publish(alpha_bus, enveloped(note("good")))

    inbox = await world.inbox()

    await eventually(world.took_in(1), "the good one is taken in")
    found = await dead_letters(world)
    assert [letter.message for letter in found] == list(bad.values())
    assert {letter.attempts for letter in found} == {1}
    assert [letter.id for letter in found] == [f"alpha:{sequence}" for sequence in range(1, len(bad) + 1)]
    with pytest.raises(Undecodable):
        await dead_letters.retry(world.beta, inbox, found[0])
    assert await dead_letters.drop(world.beta, found[0])
    assert await dead_letters(world) == found[1:]


async def test_an_event_before_its_predecessor_waits_and_the_producer_is_asked(world: World) -> None:
    """The predecessor never reached beta: it was published and taken from the stream."""
    await world.relay(compare_every_seconds=3600)
    first = note("v0")
    await world.tell(first, note("v1", note_id=first.id, version=1), note("other"))
    await eventually(world.published_count(3), "three events are out")
    await world.ask("$JS.API.STREAM.MSG.DELETE.alpha", {"seq": 1})

    await world.inbox(replicate)

    await eventually(world.took_in(3), "alpha published the first version again")
    assert await world.effects() == ["other", "v0", "v1"]


async def test_more_waiting_events_than_the_bus_allows_by_default_do_not_block_the_one_they_wait_for(
    world: World, alpha_bus: Bus
) -> None:
    first = note("v0")
    for version in range(1, 1101):
        await alpha_bus.publish(
            "events.alpha.NoteWritten", enveloped(note(f"v{version}", note_id=first.id, version=version)), str(new_id())
        )
    waiting = asyncio.Event()

    async def waits(tx: Transaction, event: NoteWritten) -> None:
        if event.version == 0:
            await note_effect(tx, event)
            return
        if event.version == 1100:
            waiting.set()
        raise MissingEvents("alpha", event.id)

    await world.inbox(waits)
    await asyncio.wait_for(waiting.wait(), 20)
    await publish(alpha_bus, enveloped(first))

    await eventually(world.took_in(1), "the first version comes through")


async def test_s04_a_replica_converges_whatever_the_order(world: World, alpha_bus: Bus) -> None:
    """Every permutation of four versions, each with a note of its own, all at once."""
    for order in itertools.permutations(range(4)):
        written = note("v0")
        for version in order:
            await publish(alpha_bus, enveloped(note(f"v{version}", note_id=written.id, version=version)))

    await world.inbox(replicate)

    await eventually(world.took_in(24 * 4), "all versions of all notes are applied")
    await eventually(lambda: everything_acknowledged(world), "nothing waits")
    applied = await world.beta.fetch("SELECT array_agg(text ORDER BY position) AS texts FROM effect GROUP BY note")
    assert [row["texts"] for row in applied] == [["v0", "v1", "v2", "v3"]] * 24


async def test_a_failed_handler_leaves_no_effect_no_event_and_no_inbox_row(world: World, alpha_bus: Bus) -> None:
    poison = new_id()
    await publish(alpha_bus, enveloped(note("poison"), poison))
    await publish(alpha_bus, enveloped(note("good")))

    await world.inbox(tells_on, delays_seconds=SHORT_DELAYS_SECONDS)

    await eventually(lambda: dead_letters(world), "the poison is a dead letter")
    assert await world.effects() == ["good"]
    assert await world.beta.fetchval("SELECT count(*) FROM outbox") == 1
    assert await world.beta.fetchval("SELECT count(*) FROM inbox WHERE id = $1", poison) == 0


async def test_contended_rows_are_tried_again_and_not_counted_as_failures(world: World, alpha_bus: Bus) -> None:
    stands_in_the_way = await asyncpg.connect(world.beta_fresh.superuser_url)
    transaction = stands_in_the_way.transaction()
    await transaction.start()
    await stands_in_the_way.execute("LOCK TABLE effect IN ACCESS EXCLUSIVE MODE")
    await publish(alpha_bus, enveloped(note("patient")))
    await world.inbox()

    async def was_refused_once() -> bool:
        info = await world.ask("$JS.API.CONSUMER.INFO.alpha.beta", {})
        return bool(info.get("num_redelivered", 0))

    await eventually(was_refused_once, "the lock's wait ended")
    await transaction.rollback()
    await stands_in_the_way.close()

    await eventually(world.took_in(1), "it is taken in once the lock is gone")
    assert await world.beta.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_the_trace_goes_from_the_request_over_the_bus_into_what_the_handler_tells(world: World) -> None:
    seen: list[str | None] = []

    async def remembers_trace(tx: Transaction, event: NoteWritten) -> None:
        seen.append(current_traceparent())
        await tells_on(tx, event)

    await world.relay()
    await world.inbox(remembers_trace)
    with trace_span("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
        await world.tell(note("traced"))

    await eventually(world.took_in(1), "the note is taken in")
    told_with = await world.beta.fetchval("SELECT traceparent FROM outbox")
    assert seen[0] is not None
    for trace in (await world.alpha.fetchval("SELECT traceparent FROM outbox"), seen[0], told_with):
        assert trace.split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
    assert told_with == seen[0]
    assert current_traceparent() is None


async def test_a_stopping_inbox_finishes_its_handlers_and_gives_the_rest_back(world: World, alpha_bus: Bus) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def slow(tx: Transaction, event: NoteWritten) -> None:
        began.set()
        await may_end.wait()
        await note_effect(tx, event)

    await publish(alpha_bus, enveloped(note("first")))
    bus = await world.bus("beta")
    running = world.run(Inbox("beta", world.beta, bus, {NoteWritten: slow}).run("alpha"))
    await began.wait()
    for number in range(3):
        await publish(alpha_bus, enveloped(note(f"later {number}")))

    async def delivered_but_not_begun() -> bool:
        info = await world.ask("$JS.API.CONSUMER.INFO.alpha.beta", {})
        return bool(info["num_ack_pending"] == 4)

    await eventually(delivered_but_not_begun, "three more wait in the stopping process")
    running.cancel()
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    assert not running.done()
    may_end.set()
    await asyncio.wait({running}, timeout=5)
    assert running.cancelled()
    assert await world.effects() == ["first"]

    await bus.close()
    await world.inbox()
    await eventually(world.took_in(4), "the next process has the others at once, not after the bus's half minute", 5)
    assert sorted(await world.effects()) == ["first", "later 0", "later 1", "later 2"]


async def test_events_wait_while_the_database_is_killed_and_nothing_is_lost(
    world: World, alpha_bus: Bus, private_postgres: Postgres
) -> None:
    theirs = engines.Databases(private_postgres)
    fresh = await theirs.fresh("beta")
    await own_tables(fresh)
    world.beta = await world.database(fresh, "beta")
    await world.inbox()
    await publish(alpha_bus, enveloped(note("before")))
    await eventually(world.took_in(1), "beta took in the first")

    kill(private_postgres)
    for text in ("during 1", "during 2"):
        await publish(alpha_bus, enveloped(note(text)))
    await start_again(private_postgres)
    await publish(alpha_bus, enveloped(note("after")))

    async def all_are_there() -> bool:
        try:
            return sorted(await world.effects()) == ["after", "before", "during 1", "during 2"]
        except (Unavailable, *UNREACHABLE):
            return False

    await eventually(all_are_there, "beta took in all of them", 20)
    assert await world.beta.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_an_event_that_must_wait_and_stands_twice_in_a_batch_is_not_done_with(world: World) -> None:
    inbox = Inbox("beta", world.beta, await world.bus("beta"), {NoteWritten: replicate})
    later = note("second", version=1)
    event_id = new_id()
    batch = [unwrap(enveloped(later, event_id)) for _ in range(2)]
    async with world.beta.transaction() as tx:
        assert set(await inbox.consume(tx, batch)) == {0, 1}
    first = unwrap(enveloped(note("first", note_id=later.id)))
    async with world.beta.transaction() as tx:
        assert await inbox.consume(tx, [first, *batch]) == {}
    assert await world.effects() == ["first", "second"]
