"""A service's own PostgreSQL database: single statements, and transactions that are rows, events and one instant."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import asyncpg

from admitone.kernel import clock, ids
from admitone.kernel.event import Event
from admitone.kernel.refusals import Unavailable
from admitone.kernel.trace import current_traceparent

log = logging.getLogger(__name__)

Row = asyncpg.Record

# What a statement, a lock and a forgotten transaction may cost before PostgreSQL ends it, in milliseconds.
_BUDGETS_MS: Final = {
    "statement_timeout": "3000",
    "lock_timeout": "1000",
    "idle_in_transaction_session_timeout": "5000",
}
_POOL_WAIT_SECONDS: Final = 1.0
# Taking a free connection is much quicker than this.
_A_WAIT_SECONDS: Final = 0.001

# Two transactions stood in each other's way: the same work alone, or a moment later, goes through.
CONTENDED: Final = (asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError, asyncpg.SerializationError)

# The database is away, restarting or overloaded: nothing was decided, the caller may try again.
UNREACHABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.QueryCanceledError,
    *CONTENDED,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    # What asyncpg says when a killed server's last words came while the connection lay idle.
    asyncpg.InternalClientError,
    ConnectionError,
    TimeoutError,
)


def is_away(error: Exception) -> bool:
    """Whether the database is away, so that trying the same alone, at once, would be in vain."""
    return isinstance(error, (Unavailable, *UNREACHABLE)) and not isinstance(error, CONTENDED)


# The bus refuses larger messages, and an event that it refuses would come back to the relay for ever.
_EVENT_BYTES_MAX: Final = 48 * 1024

_TELL: Final = """
INSERT INTO outbox (id, type, aggregate, version, data, traceparent)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::integer[], $5::text[], $6::text[])
"""


class Statements:
    """The four ways to run one SQL statement, on a pool or inside a transaction."""

    async def execute(self, sql: str, *arguments: Any) -> str:
        """Run a statement for its effect; return PostgreSQL's command tag."""
        raise NotImplementedError

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        """Return every row."""
        raise NotImplementedError

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        """Return the first row, or None."""
        raise NotImplementedError

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        """Return the first column of the first row, or None."""
        raise NotImplementedError


class Transaction(Statements):
    """Rows and events that become true together, at one instant.

    `now` is the database's clock at the transaction's start: every decision inside uses it.
    """

    def __init__(self, connection: Any, now: datetime) -> None:
        self._connection = connection
        self.now = now
        self._told: list[tuple[Event, str | None]] = []
        self.woken: set[str] = set()

    def wake(self, job: str) -> None:
        """Wake a background job of this process once the transaction is committed; see `Database.alarm`."""
        self.woken.add(job)

    def publish(self, event: Event) -> None:
        """Tell an event: it is written to the outbox by this transaction's commit, or not at all."""
        self._told.append((event, current_traceparent()))

    async def execute(self, sql: str, *arguments: Any) -> str:
        tag: str = await self._connection.execute(sql, *arguments)
        return tag

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        rows: list[Row] = await self._connection.fetch(sql, *arguments)
        return rows

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        row: Row | None = await self._connection.fetchrow(sql, *arguments)
        return row

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        return await self._connection.fetchval(sql, *arguments)

    @property
    def has_told(self) -> bool:
        return bool(self._told)

    async def write_events(self) -> None:
        """Write what was told so far to the outbox, in one statement and in order; the commit calls this."""
        told, self._told = self._told, []
        if not told:
            return
        encoded = [event.encode() for event, _ in told]
        assert max(map(len, encoded)) <= _EVENT_BYTES_MAX, "an event is too large for the bus"
        await self._connection.execute(
            _TELL,
            [ids.new_id() for _ in told],
            [type(event).__name__ for event, _ in told],
            [event.aggregate for event, _ in told],
            [event.aggregate_version for event, _ in told],
            encoded,
            [trace for _, trace in told],
        )


async def _keep_session_state(_connection: Any) -> None:
    """Skip asyncpg's reset on release: nothing here leaves state on a connection, and it costs a round trip."""


@dataclass
class Waits:
    """How often, and how long altogether, somebody waited for a connection, and how often none came free in time."""

    count: int = 0
    seconds: float = 0.0
    refused: int = 0


class Database(Statements):
    """A pool of connections to one service's database."""

    def __init__(self, pool: "asyncpg.Pool[Row]", url: str) -> None:
        self._pool = pool
        self.url = url
        self.waits = Waits()
        self._on_told: Callable[[], None] | None = None
        self._alarms: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    @classmethod
    async def connect(cls, url: str, *, application: str, connections: int = 10) -> "Database":
        """Open the pool; raises one of UNREACHABLE or OSError while the server is away."""
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=connections,
            timeout=5,
            command_timeout=10,
            max_inactive_connection_lifetime=0,
            reset=_keep_session_state,
            server_settings={"application_name": application, "jit": "off", **_BUDGETS_MS},
        )
        return cls(pool, url)

    async def close(self) -> None:
        try:
            await asyncio.wait_for(self._pool.close(), timeout=5)
        except (asyncpg.InterfaceError, *UNREACHABLE):
            self._pool.terminate()

    def on_told(self, wake: Callable[[], None]) -> None:
        """Call `wake` after each commit that told events."""
        self._on_told = wake

    def told(self) -> None:
        """Say that a committed statement wrote to the outbox by itself."""
        if self._on_told is not None:
            self._on_told()

    def alarm(self, job: str) -> asyncio.Event:
        """Return what is set when a committed transaction wakes this job; the job clears it."""
        return self._alarms[job]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Lend a pooled connection; raises Unavailable when none is free within a second."""
        began = clock.monotonic_seconds()
        try:
            connection = await self._pool.acquire(timeout=_POOL_WAIT_SECONDS)
        except (OSError, asyncpg.InterfaceError, *UNREACHABLE) as error:
            self.waits.refused += 1
            raise Unavailable from error
        waited = clock.monotonic_seconds() - began
        if waited > _A_WAIT_SECONDS:
            self.waits.count += 1
            self.waits.seconds += waited
        try:
            yield connection
        except asyncpg.InterfaceError as error:
            # asyncpg says so both of a connection that is gone and of an argument too many: a bug.
            if _is_gone(connection):
                raise Unavailable from error
            raise
        except asyncpg.InternalClientError as error:
            # The server was killed, and this connection has not noticed all of it yet.
            if not _is_gone(connection):
                connection.terminate()
            raise Unavailable from error
        finally:
            await self._pool.release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Begin; commit rows and events together when the block ends, roll both back when it raises.

        When the connection breaks during the commit, the outcome is unknown and the error is raised: whoever
        asked must ask again with the same key or read what became of it.
        """
        async with self.connection() as connection:
            async with connection.transaction():
                tx = Transaction(connection, await connection.fetchval("SELECT instant()"))
                yield tx
                told = tx.has_told
                await tx.write_events()
            if told:
                self.told()
            for job in tx.woken:
                self.alarm(job).set()

    async def execute(self, sql: str, *arguments: Any) -> str:
        async with self.connection() as connection:
            tag: str = await connection.execute(sql, *arguments)
            return tag

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        async with self.connection() as connection:
            rows: list[Row] = await connection.fetch(sql, *arguments)
            return rows

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        async with self.connection() as connection:
            row: Row | None = await connection.fetchrow(sql, *arguments)
            return row

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        async with self.connection() as connection:
            return await connection.fetchval(sql, *arguments)


def _is_gone(connection: Any) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True  # the pool has taken it back already, because it broke


async def connect_patiently(url: str, *, application: str, connections: int) -> Database:
    """Open the database, trying again for as long as it is away: services may start before it does."""
    delay_seconds = 0.05
    while True:
        try:
            return await Database.connect(url, application=application, connections=connections)
        except (OSError, *UNREACHABLE) as error:
            log.warning("database is not reachable yet", extra={"service": application, "error": type(error).__name__})
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 2, 2.0)


def affected(tag: str) -> int:
    """Return how many rows a command tag such as `UPDATE 1` speaks of."""
    return int(tag.rsplit(" ", 1)[-1])


def columns(rows: Sequence[object], *names: str) -> list[list[Any]]:
    """Return a list for each of the named attributes (`id`, `ticket.id`): what `unnest` takes to make rows of."""
    return [list(map(attrgetter(name), rows)) for name in names]
