"""The inbox: every event has its effect once, and an event that fails delays no other."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import pytest
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError

from admitone.kernel.database.pool import UNREACHABLE, Transaction
from admitone.kernel.errors import Unavailable
from admitone.kernel.ids import new_id
from admitone.kernel.messaging import dead_letters
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import Envelope, Event, Undecodable, UnknownEvent, unwrap
from admitone.kernel.messaging.failures import record_failure
from admitone.kernel.messaging.handlers import AnyHandler, BatchHandler, MissingEvents
from admitone.kernel.messaging.inbox import Inbox
from admitone.kernel.messaging.subscriptions import announce
from admitone.kernel.tracing import current_traceparent, trace_span
from admitone.local.postgres import Postgres
from tests import engines
from tests.kernel.support import (
    SHORT_DELAYS_SECONDS,
    HandlerBroken,
    NoteCopied,
    NoteErased,
    NoteWritten,
    World,
    create_tables,
    dead_letters_of,
    ended,
    enveloped,
    fails_on_poison,
    kill,
    note,
    note_effect,
    numbered,
    publish_message,
    replicate,
    start_again,
    texts,
)
from tests.support import eventually

_ERASED = "events.alpha.NoteErased"
_WRITTEN = "events.alpha.NoteWritten"


async def copies(tx: Transaction, event: NoteWritten) -> None:
    await note_effect(tx, event)
    tx.publish(NoteCopied(id=event.id))
    if event.text == "poison":
        raise HandlerBroken


async def everything_acknowledged(world: World) -> bool:
    try:
        consumer = await (await world.jetstream()).consumer_info("alpha", "beta")
    except NotFoundError:
        return False
    return bool(consumer.num_ack_pending == consumer.num_pending == 0)


async def test_s03_an_event_delivered_five_times_has_one_effect(world: World, alpha_bus: Bus) -> None:
    once = note("once")
    event_id = new_id()
    for _ in range(5):
        await publish_message(alpha_bus, enveloped(once, event_id))
    await publish_message(alpha_bus, enveloped(note("last")))

    await world.inbox()

    await eventually(world.consumed(2), "beta consumes both notes")
    await eventually(lambda: everything_acknowledged(world), "every copy is acknowledged")
    assert await world.effects() == ["once", "last"]


async def test_s03_a_consumer_that_is_created_again_gets_every_event_again_without_effect(world: World) -> None:
    await world.relay()
    await world.inbox()
    await world.publish(*numbered(20))
    await eventually(world.consumed(20), "beta consumes twenty notes")

    await (await world.jetstream()).delete_consumer("alpha", "beta")
    await world.publish(note("after"))

    await eventually(world.consumed(21), "beta goes on with a new consumer")
    await eventually(lambda: everything_acknowledged(world), "the old notes are acknowledged again")
    assert await world.effects() == [*texts(20), "after"]


async def test_an_older_consumer_is_updated_to_deliver_unacknowledged_events_again_soon_and_without_limit(
    world: World,
) -> None:
    await world.relay()
    await world.publish(note("one"))
    await eventually(world.published_count(1), "there is a stream")
    jetstream = await world.jetstream()
    await jetstream.add_consumer("alpha", ConsumerConfig(durable_name="beta", ack_wait=30, max_deliver=5))
    await world.inbox()
    await eventually(world.consumed(1), "beta consumes with a consumer that an older version created")

    config = (await jetstream.consumer_info("alpha", "beta")).config

    assert config.ack_wait == 10
    assert config.max_deliver == -1
    assert config.ack_policy == "explicit"


async def test_an_event_committed_but_not_acknowledged_has_one_effect(world: World, alpha_bus: Bus) -> None:
    """The event that a process consumed before it died is delivered again to the next one."""
    message = enveloped(note("once"))
    await publish_message(alpha_bus, message)
    died = Inbox("beta", world.beta, await world.bus("beta"), {NoteWritten: note_effect})
    async with world.beta.transaction() as tx:
        await died.consume(tx, [unwrap(message)])

    await world.inbox()

    await eventually(lambda: everything_acknowledged(world), "the copy is acknowledged")
    assert await world.effects() == ["once"]


@dataclass
class NoteBatch:
    """The notes that a batch is about, and those that it changed."""

    versions: dict[UUID, int]
    changed: list[NoteWritten] = field(default_factory=list)


async def test_a_batch_handler_gets_one_event_of_each_aggregate_at_a_time(world: World) -> None:
    sizes: list[int] = []

    async def load(tx: Transaction, events: Sequence[NoteWritten]) -> NoteBatch:
        sizes.append(len(events))
        ids = [event.id for event in events]
        assert len(set(ids)) == len(ids)
        rows = await tx.fetch("SELECT id, version FROM note WHERE id = ANY($1::uuid[])", ids)
        return NoteBatch({row["id"]: row["version"] for row in rows})

    def handle(tx: Transaction, batch: NoteBatch, event: NoteWritten) -> None:
        have = batch.versions.get(event.id, -1)
        if event.version != have + 1:
            raise MissingEvents("alpha", event.id, have)
        batch.changed.append(event)
        if event.version == 0:
            tx.publish(NoteCopied(id=event.id))

    async def save(tx: Transaction, batch: NoteBatch) -> None:
        for event in batch.changed:
            await replicate(tx, event)

    inbox = Inbox("beta", world.beta, await world.bus("beta"), {NoteWritten: BatchHandler(load, handle, save)})
    one, two, three = note("one v0"), note("two v0"), note("three v0")
    later = [note(f"{name} v1", note_id=each.id, version=1) for name, each in (("one", one), ("two", two))]
    early = note("four v2", version=2)
    trace = f"00-{'1' * 32}-{'2' * 16}-01"
    messages = [enveloped(each, trace=trace) for each in (one, two, later[0], three, later[1], early)]
    async with world.beta.transaction() as tx:
        missing = await inbox.consume(tx, [unwrap(each) for each in (*messages, messages[0])])
    assert list(missing) == [5]
    assert sizes == [4, 2, 1]  # the first and the second event of each note, and again the one that must wait
    assert sorted(await world.effects()) == ["one v0", "one v1", "three v0", "two v0", "two v1"]
    copied = await world.beta.fetch("SELECT aggregate, traceparent FROM outbox")
    assert {row["aggregate"] for row in copied} == {one.id, two.id, three.id}
    assert {row["traceparent"].split("-")[1] for row in copied} == {"1" * 32}


async def test_an_event_that_waits_for_a_later_one_of_its_batch_is_consumed_with_it(world: World) -> None:
    inbox = Inbox("beta", world.beta, await world.bus("beta"), {NoteWritten: replicate})
    first = note("v0")
    second = note("v1", note_id=first.id, version=1)
    async with world.beta.transaction() as tx:
        assert await inbox.consume(tx, [unwrap(enveloped(each)) for each in (second, first)]) == {}
    assert await world.effects() == ["v0", "v1"]


async def test_s15_an_event_whose_handler_fails_delays_no_other_and_becomes_a_dead_letter(
    world: World, alpha_bus: Bus
) -> None:
    for text in ("one", "poison", "two", "three"):
        await publish_message(alpha_bus, enveloped(note(text)))

    await world.inbox(fails_on_poison, delays_seconds=SHORT_DELAYS_SECONDS)

    await eventually(world.consumed(3), "the others are consumed")
    [letter] = await eventually(lambda: dead_letters_of(world), "the poison is a dead letter")
    assert await world.effects() == ["one", "two", "three"]
    assert letter.attempts == 5
    assert letter.error == "HandlerBroken: a bug"
    assert letter.subject == "events.alpha.NoteWritten"
    await eventually(lambda: everything_acknowledged(world), "the bus does not deliver it again")


async def test_one_failing_event_of_a_batch_costs_the_others_few_transactions(world: World, alpha_bus: Bus) -> None:
    for number in range(64):
        await publish_message(alpha_bus, enveloped(note("poison" if number == 40 else f"note {number}")))
    transactions: set[int] = set()

    async def handler(tx: Transaction, event: NoteWritten) -> None:
        transactions.add(await tx.fetchval("SELECT pg_current_xact_id()::text::bigint"))
        if event.text == "poison":
            raise ValueError("a bug")
        await note_effect(tx, event)

    await world.inbox(handler, delays_seconds=(60.0,))

    await eventually(world.consumed(63), "all others have their effect")
    assert sorted(await world.effects()) == sorted(f"note {number}" for number in range(64) if number != 40)
    # Seven halvings and the batches the events arrived in; one by one it would be more than sixty.
    assert len(transactions) < 32


async def test_an_event_whose_handler_is_fixed_in_time_never_becomes_a_dead_letter(
    world: World, alpha_bus: Bus
) -> None:
    tries = itertools.count(1)

    async def fails_three_times(tx: Transaction, event: NoteWritten) -> None:
        await note_effect(tx, event)
        if next(tries) <= 3:
            raise HandlerBroken

    await publish_message(alpha_bus, enveloped(note("at last")))
    await world.inbox(fails_three_times, delays_seconds=SHORT_DELAYS_SECONDS)

    await eventually(world.consumed(1), "the fourth try succeeds")
    assert await world.effects() == ["at last"]
    assert await world.beta.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_an_interface_error_of_asyncpg_is_a_bug_and_not_an_outage(world: World, alpha_bus: Bus) -> None:
    async def passes_one_too_many(tx: Transaction, event: NoteWritten) -> None:
        await tx.execute("SELECT $1::text", event.text, event.id)

    await publish_message(alpha_bus, enveloped(note("one too many")))
    await world.inbox(passes_one_too_many, delays_seconds=SHORT_DELAYS_SECONDS)

    [letter] = await eventually(lambda: dead_letters_of(world), "it is a dead letter")
    assert letter.error.startswith("InterfaceError")


async def test_s15_messages_that_are_not_events_become_dead_letters_at_once(world: World, alpha_bus: Bus) -> None:
    bad = {
        "empty": b"",
        "cut short": b"{",
        "no text": b"\xff\xfe",
        "deep": b"[" * 3000,
        "no event": b'{"specversion":"1.0"}',
        "wrong id": enveloped(note("x")).replace(b'"id":"', b'"id":"zz'),
    }
    for message in bad.values():
        await publish_message(alpha_bus, message)
    await publish_message(alpha_bus, enveloped(note("good")))

    inbox = await world.inbox()

    await eventually(world.consumed(1), "the good one is consumed")
    found = await dead_letters_of(world)
    assert [letter.message for letter in found] == list(bad.values())
    assert {letter.attempts for letter in found} == {1}
    assert [letter.id for letter in found] == [f"alpha:{sequence}" for sequence in range(1, len(bad) + 1)]
    with pytest.raises(Undecodable):
        await dead_letters.retry(world.beta, inbox, found[0])
    assert await dead_letters.drop(world.beta, found[0])
    assert await dead_letters_of(world) == found[1:]


async def test_events_of_another_release_wait_and_become_dead_letters(world: World, alpha_bus: Bus) -> None:
    unknown = [
        enveloped(note("x")).replace(b"NoteWritten", b"NoSuchEvent"),
        enveloped(note("x")).replace(b'"version":0', b'"version":"zero"'),
    ]
    inbox = Inbox("beta", world.beta, await world.bus("beta"), {NoteWritten: note_effect})
    inbox.waiting_delay_seconds, inbox.waiting_deliveries_max = 0.001, 8
    for message in unknown:
        await publish_message(alpha_bus, message)
    world.run(inbox.run("alpha"))

    async def gave_up() -> bool:
        return len(await dead_letters_of(world)) == 2

    await eventually(gave_up, "both are dead letters")
    found = await dead_letters_of(world)
    assert sorted(letter.message for letter in found) == sorted(unknown)
    assert {letter.attempts for letter in found} == {4}
    assert await dead_letters.drop(world.beta, found[0])
    assert await dead_letters_of(world) == found[1:]


async def test_replicas_of_two_releases_lose_nothing(world: World) -> None:
    """The new one subscribes to one more event and knows a value that the old one does not."""
    await world.relay()
    database = await world.database(world.beta_fresh, "beta")

    class OldInbox(Inbox):
        def _decode(self, message: bytes) -> tuple[Envelope, Event]:
            envelope, event = unwrap(message)
            if isinstance(event, NoteWritten) and event.text == "of a new kind":
                raise UnknownEvent(envelope.id, "Invalid enum value")
            return envelope, event

    def replica(*, is_new: bool) -> "asyncio.Task[None]":
        handlers: dict[type[Event], AnyHandler] = {NoteWritten: note_effect}
        if is_new:
            handlers[NoteErased] = note_effect
        inbox = (Inbox if is_new else OldInbox)("beta", database, bus, handlers)
        inbox.waiting_delay_seconds, inbox.announce_seconds, inbox.announced_seconds = 0.01, 0.05, 1.0
        return world.run(inbox.run("alpha"))

    async def subjects() -> list[str] | None:
        config = (await (await world.jetstream()).consumer_info("alpha", "beta")).config
        return config.filter_subjects or [config.filter_subject or ""]

    both = [_ERASED, _WRITTEN]

    async def all_are_delivered() -> bool:
        return await subjects() == both

    bus = await world.bus("beta")
    first = replica(is_new=False)
    await world.publish(note("before"))
    await eventually(world.consumed(1), "the old release consumes")
    bus = await world.bus("beta")
    new = replica(is_new=True)
    await eventually(all_are_delivered, "the consumer delivers what the new release subscribes to")
    bus = await world.bus("beta")
    old_again = replica(is_new=False)
    await world.publish(*numbered(20), *(note("of a new kind") for _ in range(20)))
    async with world.alpha.transaction() as tx:
        for number in range(20):
            tx.publish(NoteErased(id=new_id(), text=f"erased {number}"))
    await eventually(world.consumed(61), "every event has its effect")
    assert sorted(await world.effects()) == sorted(
        ["before", *texts(20), *["of a new kind"] * 20, *(f"erased {number}" for number in range(20))]
    )
    assert await subjects() == both
    assert await dead_letters_of(world) == []

    await ended(new)
    await eventually(lambda: _only(subjects, both[1:]), "what no replica subscribes to is not delivered any more")
    async with world.alpha.transaction() as tx:
        tx.publish(NoteErased(id=new_id(), text="too late"))
    await eventually(lambda: everything_acknowledged(world), "nothing waits for a release that is gone")
    await ended(first)
    await ended(old_again)


async def _only(subjects: Callable[[], Awaitable[Sequence[str] | None]], wanted: list[str]) -> bool:
    return await subjects() == wanted


async def test_an_old_release_leaves_an_event_to_a_new_one_that_it_does_not_know_of_yet(world: World) -> None:
    await world.relay()
    await world.inbox()
    await world.publish(note("before"))
    await eventually(world.consumed(1), "the old release consumes")
    bus = await world.bus("beta")
    await bus.ready()
    await announce(world.beta, [_ERASED])
    await bus.ensure_consumer("alpha", [_ERASED, _WRITTEN])

    async with world.alpha.transaction() as tx:
        tx.publish(NoteErased(id=new_id(), text="erased"))

    async def is_returned() -> bool:
        delivered = (await (await world.jetstream()).consumer_info("alpha", "beta")).delivered
        return delivered is not None and delivered.consumer_seq >= 3

    await eventually(is_returned, "the old release gets it, and the bus delivers it again")
    world.run(Inbox("beta", world.beta, bus, {NoteWritten: note_effect, NoteErased: note_effect}).run("alpha"))
    await eventually(world.consumed(2), "the new release consumes it")
    assert await world.effects() == ["before", "erased"]


async def test_two_releases_that_start_at_once_get_what_either_subscribes_to(world: World) -> None:
    """The old one has read what is wanted before the new one announces it, and sets its filter afterwards."""
    await world.relay()
    await world.publish(note("before"))
    await eventually(world.published_count(1), "there is a stream")
    has_read, may_go_on = asyncio.Event(), asyncio.Event()
    set_by_old: list[list[str]] = []

    class SlowBus(Bus):
        async def ensure_consumer(self, producer: str, subjects: Sequence[str]) -> None:
            has_read.set()
            await may_go_on.wait()
            await super().ensure_consumer(producer, subjects)
            set_by_old.append(list(subjects))

    async def filters() -> list[str]:
        try:
            consumer = await (await world.jetstream()).consumer_info("alpha", "beta")
        except NotFoundError:
            return []
        return list(consumer.config.filter_subjects or [])

    slow = SlowBus("beta")
    slow.start(world.nats.url("beta"))
    old = Inbox("beta", world.beta, slow, {NoteWritten: note_effect})
    old.announce_seconds = 3600
    world.run(old.run("alpha"))
    await has_read.wait()
    new = Inbox("beta", world.beta, await world.bus("beta"), {NoteWritten: note_effect, NoteErased: note_effect})
    new_runs = world.run(new.run("alpha"))
    await eventually(lambda: _only(filters, [_ERASED, _WRITTEN]), "the new release sets its filter")
    await ended(new_runs)
    may_go_on.set()

    async def both_are_set() -> bool:
        return len(set_by_old) == 2 and await filters() == [_ERASED, _WRITTEN]

    await eventually(both_are_set, "the old release sets what the new one announced meanwhile")
    assert set_by_old == [[_WRITTEN], [_ERASED, _WRITTEN]]
    await slow.close()


async def test_a_copy_of_a_consumed_event_ends_the_record_of_its_failures(world: World, alpha_bus: Bus) -> None:
    """Another replica, which could not read a copy of it, recorded a failure after it was consumed."""
    event_id = new_id()
    message = enveloped(note("once"), event_id)
    await publish_message(alpha_bus, message)
    await world.inbox()
    await eventually(world.consumed(1), "it is consumed")
    await record_failure(world.beta, str(event_id), _WRITTEN, message, "Invalid enum value", 40)

    await publish_message(alpha_bus, message)

    async def is_forgotten() -> bool:
        return bool(await world.beta.fetchval("SELECT count(*) = 0 FROM dead_letter"))

    await eventually(is_forgotten, "nothing fails any more")
    assert await world.effects() == ["once"]


async def test_an_event_without_its_predecessor_waits_and_the_predecessor_is_requested(world: World) -> None:
    """The predecessor never reached beta: it was published and deleted from the stream."""
    await world.relay(compare_every_seconds=3600)
    first = note("v0")
    await world.publish(first, note("v1", note_id=first.id, version=1), note("other"))
    await eventually(world.published_count(3), "three events are published")
    await (await world.jetstream()).delete_msg("alpha", 1)

    await world.inbox(replicate)

    await eventually(world.consumed(3), "alpha published the first version again")
    assert await world.effects() == ["other", "v0", "v1"]


async def test_an_event_that_waits_in_vain_is_requested_less_and_less_often_and_becomes_a_dead_letter(
    world: World,
) -> None:
    """The first version is nowhere any more, and each request publishes the waiting events once more."""
    await world.relay(compare_every_seconds=3600)
    first = note("v0")
    await world.publish(first, *(note(f"v{number}", note_id=first.id, version=number) for number in (1, 2, 3)))
    await eventually(world.published_count(4), "four events are published")
    await world.alpha.execute("DELETE FROM outbox WHERE version = 0")
    jetstream = await world.jetstream()
    await jetstream.delete_msg("alpha", 1)

    inbox = Inbox("beta", world.beta, await world.bus("beta"), {NoteWritten: replicate})
    inbox.waiting_delay_seconds, inbox.request_again_seconds, inbox.waiting_deliveries_max = 0.001, 0.05, 18
    world.run(inbox.run("alpha"))

    async def gave_up() -> bool:
        return len(await dead_letters_of(world)) == 3

    await eventually(gave_up, "all three are dead letters")
    await eventually(lambda: everything_acknowledged(world), "no copy waits on the bus")
    assert {letter.error for letter in await dead_letters_of(world)} == {
        f"an earlier event has not arrived: alpha {first.id} above version -1"
    }
    copies_max = await world.alpha.fetchval("SELECT max(copies) FROM outbox")
    consumer = await jetstream.consumer_info("alpha", "beta")
    assert consumer.delivered is not None
    deliveries = consumer.delivered.consumer_seq
    # Each event was delivered so often until it was given up; a copy that comes after that is given up at once.
    assert 1 <= copies_max <= 8
    assert deliveries <= 3 * (inbox.waiting_deliveries_max + 5 * copies_max)


async def test_more_waiting_events_than_jetstream_allows_by_default_do_not_block_the_one_they_wait_for(
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
    await publish_message(alpha_bus, enveloped(first))

    await eventually(world.consumed(1), "the first version is delivered")


async def test_s04_a_replica_converges_whatever_the_order(world: World, alpha_bus: Bus) -> None:
    """Every permutation of four versions, each of another note, at the same time."""
    for order in itertools.permutations(range(4)):
        written = note("v0")
        for version in order:
            await publish_message(alpha_bus, enveloped(note(f"v{version}", note_id=written.id, version=version)))

    await world.inbox(replicate)

    await eventually(world.consumed(24 * 4), "all versions of all notes are applied")
    await eventually(lambda: everything_acknowledged(world), "nothing waits")
    applied = await world.beta.fetch("SELECT array_agg(text ORDER BY position) AS texts FROM effect GROUP BY note")
    assert [row["texts"] for row in applied] == [["v0", "v1", "v2", "v3"]] * 24


async def test_a_failed_handler_leaves_no_effect_no_event_and_no_inbox_row(world: World, alpha_bus: Bus) -> None:
    poison = new_id()
    await publish_message(alpha_bus, enveloped(note("poison"), poison))
    await publish_message(alpha_bus, enveloped(note("good")))

    await world.inbox(copies, delays_seconds=SHORT_DELAYS_SECONDS)

    await eventually(lambda: dead_letters_of(world), "the poison is a dead letter")
    assert await world.effects() == ["good"]
    assert await world.beta.fetchval("SELECT count(*) FROM outbox") == 1
    assert await world.beta.fetchval("SELECT count(*) FROM inbox WHERE id = $1", poison) == 0


async def test_contended_rows_are_retried_and_not_counted_as_failures(world: World, alpha_bus: Bus) -> None:
    blocker = await asyncpg.connect(world.beta_fresh.superuser_url)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("LOCK TABLE effect IN ACCESS EXCLUSIVE MODE")
    await publish_message(alpha_bus, enveloped(note("patient")))
    await world.inbox()

    async def was_delivered_again() -> bool:
        try:
            return bool((await (await world.jetstream()).consumer_info("alpha", "beta")).num_redelivered)
        except NotFoundError:
            return False

    await eventually(was_delivered_again, "the handler's wait for the lock timed out")
    await transaction.rollback()
    await blocker.close()

    await eventually(world.consumed(1), "it is consumed once the lock is gone")
    assert await world.beta.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_the_trace_continues_from_the_request_over_the_bus_to_the_events_of_the_handler(world: World) -> None:
    seen: list[str | None] = []

    async def records_trace(tx: Transaction, event: NoteWritten) -> None:
        seen.append(current_traceparent())
        await copies(tx, event)

    await world.relay()
    await world.inbox(records_trace)
    with trace_span("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
        await world.publish(note("traced"))

    await eventually(world.consumed(1), "the note is consumed")
    copied_in = await world.beta.fetchval("SELECT traceparent FROM outbox")
    assert seen[0] is not None
    for trace in (await world.alpha.fetchval("SELECT traceparent FROM outbox"), seen[0], copied_in):
        assert trace.split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
    assert copied_in == seen[0]
    assert current_traceparent() is None


async def test_a_stopping_inbox_finishes_its_handlers_and_returns_the_other_events(
    world: World, alpha_bus: Bus
) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def slow(tx: Transaction, event: NoteWritten) -> None:
        began.set()
        await may_end.wait()
        await note_effect(tx, event)

    await publish_message(alpha_bus, enveloped(note("first")))
    bus = await world.bus("beta")
    running = world.run(Inbox("beta", world.beta, bus, {NoteWritten: slow}).run("alpha"))
    await began.wait()
    for number in range(3):
        await publish_message(alpha_bus, enveloped(note(f"later {number}")))

    async def delivered_but_not_begun() -> bool:
        consumer = await (await world.jetstream()).consumer_info("alpha", "beta")
        return bool(consumer.num_ack_pending == 4)

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
    await eventually(world.consumed(4), "the next process gets the others at once, not after the bus's ack wait", 5)
    assert sorted(await world.effects()) == ["first", "later 0", "later 1", "later 2"]


async def test_events_wait_while_the_database_is_killed_and_nothing_is_lost(
    world: World, alpha_bus: Bus, private_postgres: Postgres
) -> None:
    fresh = await engines.Databases(private_postgres).fresh("beta")
    await create_tables(fresh)
    world.beta = await world.database(fresh, "beta")
    await world.inbox()
    await publish_message(alpha_bus, enveloped(note("before")))
    await eventually(world.consumed(1), "beta consumes the first")

    kill(private_postgres)
    for text in ("during 1", "during 2"):
        await publish_message(alpha_bus, enveloped(note(text)))
    await start_again(private_postgres)
    await publish_message(alpha_bus, enveloped(note("after")))

    async def all_are_there() -> bool:
        try:
            return sorted(await world.effects()) == ["after", "before", "during 1", "during 2"]
        except (Unavailable, *UNREACHABLE):
            return False

    await eventually(all_are_there, "beta consumes all of them", 20)
    assert await world.beta.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_an_event_that_must_wait_and_occurs_twice_in_a_batch_waits_in_both_places(world: World) -> None:
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
