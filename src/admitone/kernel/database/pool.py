"""A service's PostgreSQL database: single statements, and transactions that commit rows and events together."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, TypeVar

import asyncpg
import msgspec

from admitone.kernel import clock, ids
from admitone.kernel.addresses import address_of, reason_of
from admitone.kernel.errors import Unavailable
from admitone.kernel.messaging.event import Event
from admitone.kernel.settings import SettingsError
from admitone.kernel.tracing import current_traceparent

log = logging.getLogger(__name__)

Row = asyncpg.Record
S = TypeVar("S", bound=msgspec.Struct)

# PostgreSQL ends a statement, a lock wait or an idle transaction after this many milliseconds.
_SESSION: Final = {
    "jit": "off",
    "statement_timeout": "3000",
    "lock_timeout": "1000",
    "idle_in_transaction_session_timeout": "5000",
}
_POOL_WAIT_SECONDS: Final = 1.0
# Longer than any statement may take: then the server or the network does not respond.
_SILENT_SECONDS_MAX: Final = 10.0
# Acquiring a free connection takes much less than this.
_WAIT_SECONDS_MIN: Final = 0.001

# Transactions conflicted: the same work succeeds alone, or a moment later.
CONTENDED: Final = (asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError, asyncpg.SerializationError)

# The database is unreachable, restarting or overloaded; the caller may try again.
UNREACHABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.QueryCanceledError,
    *CONTENDED,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    # asyncpg raises this if a killed server's last message arrived while the connection was idle.
    asyncpg.InternalClientError,
    ConnectionError,
    TimeoutError,
)


def is_unreachable(error: Exception) -> bool:
    """Whether the database is unreachable, so that an immediate retry would fail as well."""
    return isinstance(error, (Unavailable, *UNREACHABLE)) and not isinstance(error, CONTENDED)


_PORT: Final = 5432


class DatabaseUnreachable(ConnectionError):
    """The database of a service cannot be reached; the message names the service, the address and the reason"""

    def __init__(self, service: str, url: str, error: BaseException, variable: str = "DATABASE_URL") -> None:
        super().__init__(
            f"The database of {service} at {address_of(url, _PORT)} cannot be reached: {reason_of(error)}."
            f" Start it, or correct ADMITONE_{service.upper()}_{variable}."
        )


class SessionSettingsIgnored(Exception):
    """settings of the session have no effect"""


@contextmanager
def connecting(service: str, url: str, variable: str = "DATABASE_URL") -> Iterator[None]:
    """Name the service and the server in the errors of connecting; `variable` is the setting with the URL.

    Raises DatabaseUnreachable if another attempt may succeed, and SettingsError if the URL or its login is wrong. No
    message has the password.
    """
    setting = f"ADMITONE_{service.upper()}_{variable}"
    try:
        yield
    except (asyncpg.ProtocolViolationError, SessionSettingsIgnored) as error:
        # PostgreSQL itself raises neither, and both stay until an operator acts.
        raise SettingsError(
            f"The database of {service} at {address_of(url, _PORT)} is behind a connection pooler such as PgBouncer"
            f" ({error}), which is not supported in any mode: a service needs sessions of its own. Set {setting} to the"
            " address of PostgreSQL itself."
        ) from error
    except (OSError, *UNREACHABLE) as error:
        raise DatabaseUnreachable(service, url, error, variable) from error
    except ValueError:
        # The error is not chained: it can quote the URL.
        raise SettingsError(
            f"{setting} must be a URL such as postgresql://user:password@host:5432/{service}; special characters of the"
            " password must be percent-encoded"
        ) from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        address = address_of(url, _PORT)
        raise SettingsError(
            f"The database of {service} at {address} refuses the connection: {error}. Correct {setting}."
        ) from error


# The bus refuses larger messages, and the relay would retry such an event forever.
_EVENT_BYTES_MAX: Final = 48 * 1024

_INSERT_EVENTS: Final = """
INSERT INTO outbox (id, type, aggregate, version, data, traceparent)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::integer[], $5::text[], $6::text[])
"""


class Statements:
    """The four ways to run one SQL statement, on a pool or inside a transaction."""

    def connection(self) -> AbstractAsyncContextManager[Any]:
        """Return the asyncpg connection to use, for as long as the block lasts."""
        raise NotImplementedError

    async def execute(self, sql: str, *arguments: Any) -> str:
        """Run a statement for its effect; return PostgreSQL's command tag."""
        async with self.connection() as connection:
            tag: str = await connection.execute(sql, *arguments)
            return tag

    async def fetch(self, sql: str, *arguments: Any) -> list[Row]:
        """Return every row."""
        async with self.connection() as connection:
            rows: list[Row] = await connection.fetch(sql, *arguments)
            return rows

    async def fetchrow(self, sql: str, *arguments: Any) -> Row | None:
        """Return the first row, or None."""
        async with self.connection() as connection:
            row: Row | None = await connection.fetchrow(sql, *arguments)
            return row

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        """Return the first column of the first row, or None."""
        async with self.connection() as connection:
            return await connection.fetchval(sql, *arguments)


class Transaction(Statements):
    """A transaction that commits rows and events together.

    `now` is the database's clock at the start of the transaction: every decision inside uses it.
    """

    def __init__(self, connection: Any, now: datetime) -> None:
        self._connection = connection
        self.now = now
        self._events: list[tuple[Event, int | None, str | None]] = []
        self.woken_jobs: set[str] = set()

    def wake(self, job: str) -> None:
        """Wake a background job of this process once the transaction is committed; see `Database.signal`."""
        self.woken_jobs.add(job)

    def publish(self, event: Event, *, is_snapshot: bool = False) -> None:
        """Publish an event: it is written to the outbox by this transaction.

        A snapshot describes what the aggregate is, not a change of it, so the outbox gives it no version.
        """
        version = None if is_snapshot else event.aggregate_version
        self._events.append((event, version, current_traceparent()))

    def connection(self) -> AbstractAsyncContextManager[Any]:
        return nullcontext(self._connection)

    async def write_events(self) -> bool:
        """Write the published events to the outbox, in order and in one statement; False if there are none."""
        events, self._events = self._events, []
        if not events:
            return False
        encoded = [event.encode() for event, _, _ in events]
        assert max(map(len, encoded)) <= _EVENT_BYTES_MAX, "an event is too large for the bus"
        await self._connection.execute(
            _INSERT_EVENTS,
            [ids.new_id() for _ in events],
            [type(event).__name__ for event, _, _ in events],
            [event.aggregate for event, _, _ in events],
            [version for _, version, _ in events],
            encoded,
            [traceparent for _, _, traceparent in events],
        )
        return True


async def _keep_session_state(_connection: Any) -> None:
    """Skip asyncpg's reset on release: no session state is left on a connection, and the reset costs a round trip."""


@dataclass
class Waits:
    """How often and how long callers waited for a connection, and how often none was free in time."""

    count: int = 0
    seconds: float = 0.0
    refused: int = 0


class Database(Statements):
    """A pool of connections to one service's database."""

    def __init__(self, pool: "asyncpg.Pool[Row]", url: str) -> None:
        self._pool = pool
        self.url = url
        self.waits = Waits()
        # A connection in use for longer is closed, without a request to cancel; None for commands that take long.
        self.silent_seconds_max: float | None = _SILENT_SECONDS_MAX
        # Wakes the relay. It is called after each commit that published events; callers of statements that write to the
        # outbox themselves must call it, too.
        self.published: Callable[[], None] = lambda: None
        self._signals: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        # Whether every use raises Unavailable: what the database has must not be used.
        self.is_withdrawn = False

    @classmethod
    async def connect(cls, url: str, *, application: str, connections: int = 10) -> "Database":
        """Open the pool; raises one of UNREACHABLE or OSError if the server cannot be reached.

        Raises SessionSettingsIgnored behind a pooler that was configured to ignore what it does not support.
        """
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=connections,
            timeout=5,
            # asyncpg would cancel what takes longer, and a commit cancelled while it waits for a second server counts
            # although only one has it. Source: PostgreSQL documentation, "Synchronous Replication".
            command_timeout=None,
            max_inactive_connection_lifetime=0,
            reset=_keep_session_state,
            server_settings={"application_name": application, **_SESSION},
        )
        try:
            jit = await pool.fetchval("SELECT current_setting('jit')")
        except BaseException:
            pool.terminate()
            raise
        if jit != _SESSION["jit"]:
            pool.terminate()
            raise SessionSettingsIgnored(SessionSettingsIgnored.__doc__)
        return cls(pool, url)

    async def close(self) -> None:
        try:
            await asyncio.wait_for(self._pool.close(), timeout=5)
        except (asyncpg.InterfaceError, *UNREACHABLE):
            self._pool.terminate()

    def signal(self, job: str) -> asyncio.Event:
        """Return the event that is set when a committed transaction wakes this job; the job clears it."""
        return self._signals[job]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Borrow a pooled connection; raises Unavailable if none is free within a second, or none may be used."""
        if self.is_withdrawn:
            raise Unavailable
        began = clock.monotonic_seconds()
        try:
            connection = await self._pool.acquire(timeout=_POOL_WAIT_SECONDS)
        except (OSError, asyncpg.InterfaceError, *UNREACHABLE) as error:
            self.waits.refused += 1
            raise Unavailable from error
        waited = clock.monotonic_seconds() - began
        if waited > _WAIT_SECONDS_MIN:
            self.waits.count += 1
            self.waits.seconds += waited
        timer = None
        if self.silent_seconds_max is not None:
            timer = asyncio.get_running_loop().call_later(self.silent_seconds_max, connection.terminate)
        try:
            yield connection
        except asyncpg.InterfaceError as error:
            # asyncpg raises it for a closed connection and for a wrong number of arguments, which is a bug.
            if _is_gone(connection):
                raise Unavailable from error
            raise
        except asyncpg.InternalClientError as error:
            # The server was killed while this connection was in use.
            if not _is_gone(connection):
                connection.terminate()
            raise Unavailable from error
        finally:
            if timer is not None:
                timer.cancel()
            await self._pool.release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Begin; commit rows and events together when the block ends, roll both back when it raises.

        If the connection breaks during the commit, the outcome is unknown and the error is raised: the caller must
        repeat the request with the same key, or read the state.
        """
        async with self.connection() as connection:
            async with connection.transaction():
                tx = Transaction(connection, await connection.fetchval("SELECT instant()"))
                yield tx
                has_published = await tx.write_events()
            if has_published:
                self.published()
            for job in tx.woken_jobs:
                self.signal(job).set()


def _is_gone(connection: Any) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True  # it broke, and the pool has released it already


async def connect_with_retries(url: str, *, application: str, connections: int) -> Database:
    """Open the database of the service `application`; retry until it can be reached, as it may start later.

    Raises SettingsError if the URL or its login is wrong.
    """
    delay_seconds = 0.05
    while True:
        try:
            with connecting(application, url):
                return await Database.connect(url, application=application, connections=connections)
        except DatabaseUnreachable as error:
            log.warning("the database is not reachable yet", extra={"service": application, "error": str(error)})
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 2, 2.0)


def affected_rows(tag: str) -> int:
    """Return the number of rows in a command tag such as `UPDATE 1`."""
    return int(tag.rsplit(" ", 1)[-1])


def columns(rows: Sequence[object], *names: str) -> list[list[Any]]:
    """Return the named attributes (`id`, `ticket.id`) as one list each, the arguments of an `unnest` of rows."""
    return [list(map(attrgetter(name), rows)) for name in names]


def column_list(struct: type[msgspec.Struct]) -> str:
    """Return the columns named as the fields of a struct, quoted and separated by commas, for a statement."""
    return ", ".join(f'"{name}"' for name in struct.__struct_fields__)


def from_row(struct: type[S], row: Row, **others: Any) -> S:
    """Return a struct whose fields are the row's columns of the same names, but for `others`."""
    return struct(**{name: row[name] for name in struct.__struct_fields__ if name not in others}, **others)
