"""The real PostgreSQL under a simulation: one statement at a time, on the simulation's clock.

Every statement is sent and waited for before anything else happens, so that the order of everything depends on the
seed alone. A statement that waits for another transaction's lock is noticed, left where it is, and taken up again
when that transaction ends.
"""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

import asyncpg

from admitone.kernel.database.migrations import migrate
from admitone.kernel.database.pool import Row
from admitone.local.provision import DatabaseAccount, provision
from proof.simulation.provider import INSTALLATION

T = TypeVar("T")
AsyncpgConnection = Any  # it is generic in a way that differs between asyncpg's source and its stubs

SERVICES: Final = ("auth", "tickets", "orders", "expiration", "payments")
_BLOCKED_AFTER_SECONDS: Final = 0.02
_SESSION: Final = {
    "jit": "off",
    # The same plan every time: rows without an order must come in the same order in every run of a seed.
    "plan_cache_mode": "force_generic_plan",
    "synchronous_commit": "off",
    # Time is the simulation's; PostgreSQL's own would end what a busy machine delays.
    "lock_timeout": "0",
    "statement_timeout": "60000",
    "idle_in_transaction_session_timeout": "0",
}


@dataclass(eq=False)
class Session:
    """One real connection."""

    service: str
    connection: AsyncpgConnection
    pid: int
    in_transaction: bool = False


@dataclass(eq=False)
class _Blocked:
    """A statement that waits for another transaction."""

    session: Session
    task: "asyncio.Task[Any]"
    woken: "asyncio.Future[None]"


@dataclass
class _Store:
    """One service's database."""

    url: str
    owner: AsyncpgConnection
    tables: tuple[str, ...]
    free: list[Session] = field(default_factory=list)
    blocked: list[_Blocked] = field(default_factory=list)
    open_transactions: int = 0


class WorkerDatabases:
    """The databases of one simulating worker, used for one seed after another."""

    def __init__(self, server_url: str, name: str) -> None:
        self.statements = 0
        self._loop = asyncio.SelectorEventLoop()
        self._stores: dict[str, _Store] = {}
        self._server_url = server_url
        for service in SERVICES:
            self._stores[service] = self.run(self._make(service, f"{name}_{service}"))

    async def _make(self, service: str, name: str) -> _Store:
        database = DatabaseAccount(service, f"{service}-password", f"{service}-migrator-password", name=name)
        await provision(self._server_url, [database])
        await migrate(database.migrator_url(self._server_url), service)
        url = f"{self._server_url.rpartition('/')[0]}/{database.name}"
        owner = await asyncpg.connect(url, server_settings=_SESSION)
        await owner.execute(f"ALTER DATABASE {database.name} SET deadlock_timeout = '1h'")
        rows = await owner.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace "
            "AND relname NOT IN ('applied_migration', 'installation') ORDER BY relname"
        )
        tables = tuple(str(row["relname"]) for row in rows)
        for table in tables:
            await owner.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        return _Store(database.url(self._server_url), owner, tables)

    def reset(self, instant: datetime) -> None:
        """Empty every database."""
        for service, store in self._stores.items():
            # Only tables that were written to: truncating an empty one costs as much as a full one.
            sql = "SELECT name FROM unnest($1::text[]) AS name WHERE pg_relation_size(name::regclass) > 0"
            if used := self.run(store.owner.fetch(sql, store.tables)):
                names = ", ".join(row["name"] for row in used)
                self.execute(service, f"TRUNCATE {names} RESTART IDENTITY CASCADE")
        sql = "UPDATE installation SET id = $1, reconciled_until = $2, database = NULL, stripe_account = NULL"
        self.execute("payments", sql, INSTALLATION, instant)

    def close(self) -> None:
        self.run(self._close())
        self._loop.close()

    async def _close(self) -> None:
        server = await asyncpg.connect(self._server_url)
        for store in self._stores.values():
            name = await store.owner.fetchval("SELECT current_database()")
            for connection in (store.owner, *(each.connection for each in store.free)):
                await connection.close()
            await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()

    # What the simulation itself reads and changes, as the databases' owner.

    @property
    def owners(self) -> dict[str, AsyncpgConnection]:
        return {service: store.owner for service, store in self._stores.items()}

    def rows(self, service: str, sql: str, *arguments: Any) -> list[Row]:
        rows: list[Row] = self.run(self._stores[service].owner.fetch(sql, *arguments))
        return rows

    def execute(self, service: str, sql: str, *arguments: Any) -> None:
        self.run(self._stores[service].owner.execute(sql, *arguments))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end on the databases' own loop, from within a task of another loop."""
        with _outside_of_loops():
            return self._loop.run_until_complete(work)

    # What the services do.

    def session(self, service: str) -> Session:
        store = self._stores[service]
        return store.free.pop() if store.free else self.run(self._connect(service, store.url))

    async def _connect(self, service: str, url: str) -> Session:
        connection = await asyncpg.connect(url, server_settings=_SESSION)
        return Session(service, connection, connection.get_server_pid())

    def give_back(self, session: Session) -> None:
        """Take a connection back; a transaction that is still open is rolled back."""
        store = self._stores[session.service]
        for blocked in [each for each in store.blocked if each.session is session]:
            store.blocked.remove(blocked)
            self.run(_cancel(blocked.task, session.connection))
        if session.in_transaction:
            self.finish(session, "ROLLBACK")
        store.free.append(session)

    def begin(self, session: Session, instant: datetime) -> None:
        sql = f"BEGIN; SET LOCAL admitone.instant = '{instant.isoformat()}'"
        self.run(session.connection.execute(sql))
        session.in_transaction = True
        self._stores[session.service].open_transactions += 1

    def finish(self, session: Session, verb: str) -> None:
        """Commit or roll back, and let the statements go on that waited for it."""
        store = self._stores[session.service]
        session.in_transaction = False
        store.open_transactions -= 1
        try:
            self.run(session.connection.execute(verb))
        finally:
            self._wake(store)

    async def perform(self, session: Session, instant: datetime, verb: str, sql: str, arguments: Sequence[Any]) -> Any:
        """Run a statement; if it must wait for a lock, let others go on meanwhile."""
        self.statements += 1
        store = self._stores[session.service]
        if not session.in_transaction:
            self.run(session.connection.execute(f"SET admitone.instant = '{instant.isoformat()}'"))
        statement = getattr(session.connection, verb)(sql, *arguments)
        if store.open_transactions <= session.in_transaction:
            return self.run(statement)
        task = self._loop.create_task(statement)
        if not self._ends(store, session, task):
            if self._deadlocks(store, session):
                self.run(_cancel(task, session.connection))
                raise asyncpg.DeadlockDetectedError("deadlock detected")
            blocked = _Blocked(session, task, asyncio.get_running_loop().create_future())
            store.blocked.append(blocked)
            await blocked.woken
        return task.result()

    def _ends(self, store: _Store, session: Session, task: "asyncio.Task[Any]") -> bool:
        """Wait until a statement has ended (true) or waits for a lock (false)."""
        while True:
            self.run(asyncio.wait({task}, timeout=_BLOCKED_AFTER_SECONDS))
            if task.done():
                return True
            if self._blockers(store, session.pid):
                return False

    def _blockers(self, store: _Store, pid: int) -> set[int]:
        return set(self.run(store.owner.fetchval("SELECT pg_blocking_pids($1)", pid)))

    def _deadlocks(self, store: _Store, session: Session) -> bool:
        """Whether a waiting session waits, through others that wait, for itself."""
        waiting = {each.session.pid for each in store.blocked}
        reached: set[int] = set()
        ahead = self._blockers(store, session.pid)
        while ahead - reached:
            pid = min(ahead - reached)
            reached.add(pid)
            if pid in waiting:
                ahead |= self._blockers(store, pid)
        return session.pid in reached

    def _wake(self, store: _Store) -> None:
        woke = True
        while woke:
            woke = False
            for blocked in list(store.blocked):
                if self._ends(store, blocked.session, blocked.task):
                    store.blocked.remove(blocked)
                    if not blocked.woken.done():
                        blocked.woken.set_result(None)
                    woke = True


async def _cancel(task: "asyncio.Task[Any]", connection: AsyncpgConnection) -> None:
    """Cancel a statement, and wait until the connection has dealt with it."""
    task.cancel()
    with suppress(asyncio.CancelledError, asyncpg.PostgresError):
        await task
    with suppress(asyncpg.PostgresError):  # the transaction is lost
        await connection.execute("SELECT")


@contextmanager
def _outside_of_loops() -> Iterator[None]:
    """Let a loop run inside another loop's task."""
    running = asyncio._get_running_loop()
    # Python 3.12 and later keep one current task per thread.
    swap: Any = getattr(asyncio.tasks, "_swap_current_task", None)
    task = swap(running, None) if swap and running else None
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(running)
        if task is not None:
            swap(running, task)
