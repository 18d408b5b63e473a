"""A made-up marketplace for the kernel's tests: `alpha` publishes notes, `beta` consumes them."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar, Final, TypeVar
from uuid import UUID

import asyncpg
from nats.js import JetStreamManager
from nats.js.errors import NotFoundError

from admitone.kernel.clock import now
from admitone.kernel.database.pool import Database, Transaction
from admitone.kernel.ids import new_id
from admitone.kernel.messaging import dead_letters
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import Event, wrap
from admitone.kernel.messaging.handlers import AnyHandler, MissingEvents
from admitone.kernel.messaging.inbox import Inbox
from admitone.kernel.messaging.outbox import Relay
from admitone.local.nats import Nats, NatsUser
from admitone.local.server import Server
from tests.engines import Databases, Fresh

ALPHA: Final = NatsUser("alpha", "alpha-password", publishes=True)
BETA: Final = NatsUser("beta", "beta-password", publishes=True, subscribes_to=("alpha",))

_NOTE: Final = "CREATE TABLE IF NOT EXISTS note (id uuid PRIMARY KEY, version integer NOT NULL, text text NOT NULL)"
_EFFECT: Final = (
    "CREATE TABLE IF NOT EXISTS effect (position serial PRIMARY KEY, note uuid NOT NULL, text text NOT NULL)"
)

# Pauses between the attempts at a failing event; the defaults are up to half a minute.
SHORT_DELAYS_SECONDS: Final = (0.02, 0.02, 0.02, 0.02)

T = TypeVar("T")

Condition = Callable[[], Awaitable[object]]


class NoteWritten(Event):
    """A note of alpha's changed."""

    producer: ClassVar[str] = "alpha"

    id: UUID
    version: int = 0
    text: str = ""


class NoteErased(Event):
    """A note of alpha's was erased."""

    producer: ClassVar[str] = "alpha"

    id: UUID
    text: str = ""


class NoteCopied(Event):
    """Beta copied a note."""

    producer: ClassVar[str] = "beta"

    id: UUID


async def note_effect(tx: Transaction, event: NoteWritten | NoteErased) -> None:
    """Insert one row each time it runs, so that a second effect of an event would show."""
    await tx.execute("INSERT INTO effect (note, text) VALUES ($1, $2)", event.id, event.text)


async def replicate(tx: Transaction, event: NoteWritten) -> None:
    """Keep a version-guarded replica that accepts only the next version."""
    have = await tx.fetchval("SELECT version FROM note WHERE id = $1 FOR UPDATE", event.id)
    if have is not None and event.version <= have:
        return
    if event.version != (-1 if have is None else have) + 1:
        raise MissingEvents("alpha", event.id, -1 if have is None else have)
    await tx.execute(
        "INSERT INTO note VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET version = $2, text = $3",
        event.id,
        event.version,
        event.text,
    )
    await note_effect(tx, event)


class HandlerBroken(Exception):
    pass


async def fails_on_poison(tx: Transaction, event: NoteWritten) -> None:
    await note_effect(tx, event)
    if event.text == "poison":
        raise HandlerBroken("a bug")


class World:
    """Databases and buses of alpha and beta, with a relay and an inbox where a test wants one."""

    def __init__(self, nats: Nats, alpha: Fresh, beta: Fresh, stack: AsyncExitStack, replicas: int) -> None:
        self.nats = nats
        self._replicas = replicas
        self.stream_bytes_max = 0
        self.alpha_fresh = alpha
        self.beta_fresh = beta
        self._stack = stack
        self._admin: Bus | None = None

    async def open(self) -> None:
        self.alpha = await self.database(self.alpha_fresh, "alpha")
        self.beta = await self.database(self.beta_fresh, "beta")

    async def database(self, fresh: Fresh, service: str) -> Database:
        database = await Database.connect(fresh.url, application=service, connections=20)
        self._stack.push_async_callback(database.close)
        return database

    async def bus(self, service: str) -> Bus:
        """Open another connection of a service to the bus."""
        bus = Bus(service, replicas=self._replicas, stream_bytes_max=self.stream_bytes_max)
        bus.start(self.nats.url(service))
        self._stack.push_async_callback(bus.close)
        return bus

    async def relay(self, database: Database | None = None, compare_every_seconds: float = 0.1) -> Relay:
        """Run a relay of alpha's; a database of its own makes it another process's relay."""
        relay = Relay(database or self.alpha, await self.bus("alpha"), consumers=["beta"])
        relay.compare_every_seconds = compare_every_seconds
        self.run(relay.run())
        return relay

    async def inbox(
        self, handler: AnyHandler = note_effect, delays_seconds: Sequence[float] = Inbox.delays_seconds
    ) -> Inbox:
        """Run beta's inbox for alpha's notes."""
        inbox = Inbox("beta", self.beta, await self.bus("beta"), {NoteWritten: handler})
        inbox.delays_seconds = delays_seconds
        self.run(inbox.run("alpha"))
        return inbox

    def run(self, job: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run something until the test ends."""
        task = asyncio.create_task(job)
        self._stack.push_async_callback(ended, task)
        return task

    async def publish(self, *notes: NoteWritten) -> None:
        """Publish notes as alpha, in one transaction."""
        async with self.alpha.transaction() as tx:
            for each in notes:
                tx.publish(each)

    async def effects(self) -> list[str]:
        """Return the texts of the notes that had an effect in beta, in order."""
        return [row["text"] for row in await self.beta.fetch("SELECT text FROM effect ORDER BY position")]

    async def published(self) -> list[tuple[int, str]]:
        """Return stream sequence and text of the acknowledged notes in alpha's outbox, in the outbox's order."""
        rows = await self.alpha.fetch(
            "SELECT stream_sequence, data FROM outbox WHERE stream_sequence IS NOT NULL ORDER BY position"
        )
        return [(row["stream_sequence"], json.loads(row["data"])["text"]) for row in rows]

    async def stream(self) -> list[tuple[int, str]]:
        """Return sequence and text of every note in alpha's stream, read message by message."""
        jetstream = await self.jetstream()
        found = []
        try:
            state = (await jetstream.stream_info("alpha")).state
        except NotFoundError:
            return []
        for sequence in range(max(state.first_seq, 1), state.last_seq + 1):
            try:
                message = await jetstream.get_msg("alpha", sequence)
            except NotFoundError:
                continue
            assert message.data is not None
            found.append((sequence, json.loads(message.data)["data"]["text"]))
        return found

    def consumed(self, count: int) -> Condition:
        async def holds() -> bool:
            return len(await self.effects()) >= count

        return holds

    def published_count(self, count: int) -> Condition:
        async def holds() -> bool:
            return len(await self.published()) == count

        return holds

    def stream_holds(self, wanted: list[str]) -> Condition:
        async def holds() -> bool:
            return [text for _, text in await self.stream()] == wanted

        return holds

    def all_are_on_the_stream(self, count: int) -> Condition:
        """Hold when the outbox has `count` rows and each is on the stream, at the sequence the outbox records."""

        async def holds() -> bool:
            published = await self.published()
            return len(published) == count and set(published) <= set(await self.stream())

        return holds

    async def leading_session(self) -> int | None:
        """Return the PostgreSQL process in which alpha's leading relay holds its lock."""
        connection = await asyncpg.connect(self.alpha_fresh.superuser_url)
        try:
            pid: int | None = await connection.fetchval(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = "
                "(SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            return pid
        finally:
            await connection.close()

    async def end_leading_session(self) -> None:
        connection = await asyncpg.connect(self.alpha_fresh.superuser_url)
        try:
            await connection.execute("SELECT pg_terminate_backend($1)", await self.leading_session())
        finally:
            await connection.close()

    async def jetstream(self) -> JetStreamManager:
        """Return JetStream's management API, with the rights of the bus's administrator."""
        if self._admin is None:
            self._admin = await self.bus("admin")
        await self._admin.ready()
        return self._admin.jetstream


@asynccontextmanager
async def world(databases: Databases, nats: Nats, *, replicas: int = 1) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        alpha, beta = await databases.fresh("alpha"), await databases.fresh("beta")
        await create_tables(beta)
        made = World(nats, alpha, beta, stack, replicas)
        await made.open()
        yield made


async def create_tables(fresh: Fresh) -> None:
    """Create the tables of the handlers above."""
    connection = await asyncpg.connect(fresh.migrator_url)
    try:
        await connection.execute(_NOTE)
        await connection.execute(_EFFECT)
    finally:
        await connection.close()


async def ended(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=5)


def note(text: str = "", *, note_id: UUID | None = None, version: int = 0) -> NoteWritten:
    return NoteWritten(id=note_id or new_id(), version=version, text=text)


def enveloped(event: NoteWritten, event_id: UUID | None = None, trace: str | None = None) -> bytes:
    return wrap(event_id or new_id(), "alpha", "NoteWritten", event.id, now(), event.encode(), trace)


async def publish_message(bus: Bus, message: bytes) -> None:
    await (await bus.publish("events.alpha.NoteWritten", message, str(new_id())))


async def dead_letters_of(world: World) -> list[dead_letters.DeadLetter]:
    return await dead_letters.find_all(world.beta)


def numbered(count: int, first: int = 0) -> list[NoteWritten]:
    return [note(f"note {number}") for number in range(first, first + count)]


def texts(count: int, first: int = 0) -> list[str]:
    return [f"note {number}" for number in range(first, first + count)]


def kill(server: Server) -> None:
    """Kill a server as a power failure would."""
    os.kill(server.pid, signal.SIGKILL)
    assert server._child is not None
    server._child.wait(10)


async def start_again(server: Server) -> None:
    """Start a killed server again, on the same port and store."""
    assert not server.is_alive()
    server._spawn()
    while server.is_alive() and not server._ready():  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # another program gives us no event
    assert server.is_alive()
