"""The real PostgreSQL under a simulation: one statement at a time, on clocks and with accidents of the simulation's.

The services see what looks like asyncpg's pool. Every statement is sent in full and waited for before anything else
happens, so that the order of everything depends on the seed alone. A statement that has to wait for another
transaction's lock is noticed, left where it is, and taken up again when that transaction ends.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

from admitone.kernel.database.migrations import migrate
from admitone.kernel.database.pool import Row
from admitone.local import provision

if TYPE_CHECKING:
    from proof.simulation.world import Process

T = TypeVar("T")
Physical = Any  # asyncpg's connection is generic in a way that differs between its source and its stubs

SERVICES: Final = ("auth", "tickets", "orders", "expiration", "payments")
_READS: Final = re.compile(r"\s*SELECT\b")
_TELLS_TIME: Final = re.compile(r"instant\(|\bINSERT\b")  # defaults of columns tell it, too
# What could make a second order for a ticket, or a second charge for an order.
_DECIDES: Final = re.compile(r"\bINSERT INTO orders\b|\bUPDATE payment\b.*'captured'", re.DOTALL)
_LOOKS_BLOCKED_SECONDS: Final = 0.02
_SESSION: Final = {
    "jit": "off",
    # The same plan every time: rows without an order must come in the same order in every run of a seed.
    "plan_cache_mode": "force_generic_plan",
    "synchronous_commit": "off",
    # Time is the simulation's here; PostgreSQL's own would end what a busy machine makes wait.
    "lock_timeout": "0",
    "statement_timeout": "60000",
    "idle_in_transaction_session_timeout": "0",
}


class Driver:
    """Runs coroutines on a loop of its own to their end, from within another loop."""

    def __init__(self) -> None:
        self._loop = asyncio.SelectorEventLoop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        with _no_loop():
            return self._loop.run_until_complete(work)

    def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what `run` does for a statement, whose coroutine needs no task: that is most of what a seed costs."""
        running = asyncio._get_running_loop()
        asyncio._set_running_loop(self._loop)
        try:
            while True:
                awaited = work.send(None)
                awaited._asyncio_future_blocking = False
                while not awaited.done():
                    self._loop._run_once()  # type: ignore[attr-defined]  # one wait for the socket, and what it brings
        except StopIteration as end:
            value: T = end.value
            return value
        finally:
            asyncio._set_running_loop(running)

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        return self._loop.create_task(work)

    def close(self) -> None:
        self._loop.close()


@contextmanager
def _no_loop() -> Any:
    """Let a loop run inside another loop's task."""
    running = asyncio._get_running_loop()
    swap: Any = getattr(
        asyncio.tasks, "_swap_current_task", None
    )  # Python 3.12 and later keep one current task a thread
    task = swap(running, None) if swap and running else None
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(running)
        if task is not None:
            swap(running, task)


@dataclass(eq=False)
class Session:
    """One real connection."""

    service: str
    physical: Physical
    pid: int
    in_transaction: bool = False
    instant: datetime | None = None
    has_changed: bool = False
    has_told: bool = False


@dataclass(eq=False)
class _Blocked:
    """A statement that waits for another transaction."""

    session: Session
    task: "asyncio.Task[Any]"
    woken: "asyncio.Future[None]"


@dataclass
class Store:
    """One service's database."""

    service: str
    url: str
    owner: Physical
    free: list[Session] = field(default_factory=list)
    blocked: list[_Blocked] = field(default_factory=list)
    open_transactions: int = 0
    tables: tuple[str, ...] = ()
    changes: int = 0
    """How often something was written, and how often events; what was answered since is known."""
    told: int = 0
    known: dict[tuple[str, str, str], tuple[int, Any]] = field(default_factory=dict)

    def state(self, of_events: bool) -> int:  # noqa: FBT001 – of the events, or of everything
        return self.told if of_events else self.changes

    def note_change(self, session: Session) -> None:
        """What a session changed is there for everybody from now on."""
        self.changes += session.has_changed
        self.told += session.has_told
        session.has_changed = session.has_told = False


class Engine:
    """The databases of one simulating worker, used for one seed after the other."""

    def __init__(self, server_url: str, name: str) -> None:
        self.driver = Driver()
        self.stores: dict[str, Store] = {}
        self.statements = 0
        self._server_url = server_url
        self._name = name

    def open(self) -> None:
        self.driver.run(self._open())

    async def _open(self) -> None:
        base = self._server_url.rpartition("/")[0]
        for service in SERVICES:
            database = provision.Database(
                service, f"{service}-password", f"{service}-migrator-password", name=f"{self._name}_{service}"
            )
            await provision.provision(self._server_url, [database])
            await migrate(database.migrator_url(self._server_url), service)
            owner = await asyncpg.connect(f"{base}/{database.name}", server_settings=_SESSION)
            await owner.execute(f"ALTER DATABASE {database.name} SET deadlock_timeout = '1h'")
            rows = await owner.fetch(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace "
                "AND relname NOT IN ('applied_migration', 'installation') ORDER BY relname"
            )
            tables = tuple(str(row["relname"]) for row in rows)
            for table in tables:
                await owner.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
            self.stores[service] = Store(service, database.url(self._server_url), owner, tables=tables)

    def reset(self, instant: datetime) -> None:
        """Empty every database."""
        self.driver.run(self._reset(instant))

    async def _reset(self, instant: datetime) -> None:
        for store in self.stores.values():
            store.changes = store.told = 0
            store.known.clear()
            if store.service == "auth":
                continue  # nobody signs up in a simulation
            # Only what was written to: an empty table costs as much to empty as a full one.
            used = await store.owner.fetch(
                "SELECT name FROM unnest($1::text[]) AS name WHERE pg_relation_size(name::regclass) > 0", store.tables
            )
            if used:
                await store.owner.execute(f"TRUNCATE {', '.join(row['name'] for row in used)} RESTART IDENTITY CASCADE")
            if store.service == "payments":
                await store.owner.execute(
                    "UPDATE installation SET id = '00000000-0000-7000-8000-000000000001', reconciled_until = $1",
                    instant,
                )

    def close(self) -> None:
        self.driver.run(self._close())
        self.driver.close()

    async def _close(self) -> None:
        names = []
        for store in self.stores.values():
            names.append(await store.owner.fetchval("SELECT current_database()"))
            for session in store.free:
                await session.physical.close()
            await store.owner.close()
        server = await asyncpg.connect(self._server_url)
        for name in names:
            await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()

    # What the services do.

    def session(self, service: str) -> Session:
        store = self.stores[service]
        return store.free.pop() if store.free else self.driver.run(self._connect(store))

    async def _connect(self, store: Store) -> Session:
        physical = await asyncpg.connect(store.url, server_settings=_SESSION)
        return Session(store.service, physical, physical.get_server_pid())

    def give_back(self, session: Session) -> None:
        """Take a connection back; a transaction that is still open is lost with it."""
        store = self.stores[session.service]
        for blocked in [each for each in store.blocked if each.session is session]:
            store.blocked.remove(blocked)
            self.driver.run(_ended(blocked.task, session.physical))
        if session.in_transaction:
            self.finish(session, "ROLLBACK")
        store.free.append(session)

    def begin(self, session: Session, instant: datetime) -> None:
        # One round trip; the instant is good for this transaction only.
        self.driver.ask(session.physical.execute(f"BEGIN; SET LOCAL admitone.instant = '{instant.isoformat()}'"))
        session.in_transaction = True
        self.stores[session.service].open_transactions += 1

    def finish(self, session: Session, verb: str) -> None:
        """Commit or roll back, and let those go on that waited for it."""
        store = self.stores[session.service]
        session.in_transaction = False
        store.open_transactions -= 1
        store.note_change(session)
        try:
            self.driver.ask(session.physical.execute(verb))
        finally:
            self._wake(store)

    async def perform(self, session: Session, instant: datetime, verb: str, sql: str, arguments: Sequence[Any]) -> Any:
        """Run a statement; when it must wait for a lock, let others go on meanwhile.

        What is asked again although nothing was written since is answered as before: those who only look for work
        ask most of the questions.
        """
        self.statements += 1
        store = self.stores[session.service]
        of_events = "outbox" in sql
        question = None if session.in_transaction or _TELLS_TIME.search(sql) else (verb, sql, repr(arguments))
        if question is not None:
            known = store.known.get(question)
            if known is not None and known[0] == store.state(of_events):
                return known[1]
        if question is None and not session.in_transaction and session.instant != instant:
            self.driver.ask(session.physical.execute(f"SET admitone.instant = '{instant.isoformat()}'"))
            session.instant = instant
        statement = getattr(session.physical, verb)(sql, *arguments)
        if store.open_transactions <= (1 if session.in_transaction else 0):
            found = self.driver.ask(statement)
        else:
            found = await self._contend(store, session, statement)
        if not _changed_nothing(sql, found):
            session.has_changed = True
            session.has_told = session.has_told or of_events
            if not session.in_transaction:
                store.note_change(session)
        elif question is not None and (found in ([], "UPDATE 0") or verb == "fetchval"):
            store.known[question] = (store.state(of_events), found)
        return found

    async def _contend(self, store: Store, session: Session, statement: Coroutine[Any, Any, Any]) -> Any:
        """Run a statement beside open transactions, one of which may be in its way."""
        task = self.driver.start(statement)
        if not self._settle(store, session, task):
            if self._closes_circle(store, session):
                self.driver.run(_ended(task, session.physical))
                raise asyncpg.DeadlockDetectedError("deadlock detected")
            blocked = _Blocked(session, task, asyncio.get_running_loop().create_future())
            store.blocked.append(blocked)
            await blocked.woken
        return task.result()

    def _settle(self, store: Store, session: Session, task: "asyncio.Task[Any]") -> bool:
        """Wait until a statement is done (true) or waits for a lock (false)."""
        while True:
            self.driver.run(_wait(task))
            if task.done():
                return True
            if self.driver.run(store.owner.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", session.pid)):
                return False

    def _closes_circle(self, store: Store, session: Session) -> bool:
        waiting = {each.session.pid for each in store.blocked}
        blockers = set(self.driver.run(store.owner.fetchval("SELECT pg_blocking_pids($1)", session.pid)))
        seen: set[int] = set()
        while blockers - seen:
            pid = min(blockers - seen)
            seen.add(pid)
            if pid == session.pid:
                return True
            if pid in waiting:
                blockers |= set(self.driver.run(store.owner.fetchval("SELECT pg_blocking_pids($1)", pid)))
        return False

    def _wake(self, store: Store) -> None:
        woke = True
        while woke:
            woke = False
            for blocked in list(store.blocked):
                if self._settle(store, blocked.session, blocked.task):
                    store.blocked.remove(blocked)
                    if not blocked.woken.done():
                        blocked.woken.set_result(None)
                    woke = True

    # What the simulation asks by itself, unseen by the services.

    def look(self, service: str, sql: str, *arguments: Any) -> list[Row]:
        rows: list[Row] = self.driver.ask(self.stores[service].owner.fetch(sql, *arguments))
        return rows


def _changed_nothing(sql: str, found: Any) -> bool:
    """Whether a statement only read, or found nothing to change."""
    return _READS.match(sql) is not None or found == "UPDATE 0"


async def _wait(task: "asyncio.Task[Any]") -> None:
    await asyncio.wait({task}, timeout=_LOOKS_BLOCKED_SECONDS)


async def _ended(task: "asyncio.Task[Any]", physical: Physical) -> None:
    """Cancel a statement, and wait until the connection is done with it."""
    task.cancel()
    with suppress(asyncio.CancelledError, asyncpg.PostgresError):
        await task
    with suppress(asyncpg.PostgresError):  # the transaction is lost
        await physical.execute("SELECT")


class Lost(asyncpg.ConnectionDoesNotExistError):
    """The connection broke"""


class Connection:
    """What a process holds of a database: asyncpg's connection, as far as the services use one."""

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._world = process.world
        self.session: Session | None = self._world.engine.session(process.service.name)
        self._decided = False
        process.connections[self] = None

    def is_closed(self) -> bool:
        return self.session is None

    def close(self) -> None:
        """Break the connection, or give it back."""
        if self.session is not None:
            session, self.session = self.session, None
            self._process.connections.pop(self, None)
            self._world.engine.give_back(session)

    terminate = close

    async def _perform(self, verb: str, sql: str, *arguments: Any) -> Any:
        if sql == "SELECT instant()" and self.session is not None:
            return self._began if self.session.in_transaction else self._process.instant()
        await self._process.lives_on("statement")
        if self.session is None:
            raise Lost("connection was closed in the middle of operation")
        if self._world.faults.happens("connection lost"):
            self.close()
            raise Lost("connection was closed in the middle of operation")
        result = await self._world.engine.perform(self.session, self._process.instant(), verb, sql, arguments)
        self._world.trace("sql", self._process.name, sql[:60], result if isinstance(result, str) else None)
        self._decided = self._decided or _DECIDES.search(f"{sql} {arguments}") is not None
        if not self.session.in_transaction:
            self._notice()
        return result

    def _notice(self) -> None:
        """Let the world look at what was decided, if anything was."""
        if self._decided:
            self._decided = False
            self._world.changed(self._process.service.name)

    async def execute(self, sql: str, *arguments: Any) -> str:
        tag: str = await self._perform("execute", sql, *arguments)
        return tag

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        rows: list[Row] = await self._perform("fetch", sql, *arguments)
        return rows

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        row: Row | None = await self._perform("fetchrow", sql, *arguments)
        return row

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        return await self._perform("fetchval", sql, *arguments)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        await self._process.lives_on("begin")
        if self.session is None:
            raise Lost("connection was closed in the middle of operation")
        self._began = self._process.instant()
        self._world.engine.begin(self.session, self._began)
        try:
            yield
        except BaseException:
            if self.session is not None:
                self._world.engine.finish(self.session, "ROLLBACK")
            raise
        await self._commit()

    async def _commit(self) -> None:
        process, faults = self._process, self._world.faults
        await process.lives_on("commit")
        if self.session is None:
            raise Lost("connection was closed in the middle of operation")
        if faults.happens("crash before commit"):
            process.crash()
        if faults.happens("commit lost"):
            self.close()
            raise Lost("connection was closed in the middle of operation")
        self._world.engine.finish(self.session, "COMMIT")
        self._world.trace("commit", process.name)
        self._notice()
        if faults.happens("crash after commit"):
            process.crash()
        if faults.happens("commit unknown"):
            self.close()
            raise Lost("connection was closed in the middle of operation")


class Pool:
    """What a process holds of a database: asyncpg's pool, as far as the services use one."""

    def __init__(self, process: "Process") -> None:
        self._process = process

    async def acquire(self, *, timeout: float) -> Connection:  # noqa: ARG002 – asyncpg's signature
        await self._process.lives_on("acquire")
        return Connection(self._process)

    async def release(self, connection: Connection) -> None:
        connection.close()
