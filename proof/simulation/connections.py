"""What a simulated process holds of a database: asyncpg's pool and connection, with the seed's accidents."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partialmethod
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from proof.simulation.databases import Session

if TYPE_CHECKING:
    from proof.simulation.processes import Process

# What could make a second order for a ticket, or a second charge for an order.
_DECIDES: Final = re.compile(r"\bINSERT INTO orders\b|\bUPDATE payment\b.*'captured'", re.DOTALL)


class ConnectionLost(asyncpg.ConnectionDoesNotExistError):
    """The connection broke"""

    def __init__(self) -> None:
        super().__init__("connection was closed in the middle of operation")


class SimulatedConnection:
    """asyncpg's connection, as far as the services use one."""

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._world = process.world
        self._session: Session | None = self._world.databases.session(process.service.name)
        self._decided = False
        process.connections[self] = None

    def is_closed(self) -> bool:
        return self._session is None

    def close(self) -> None:
        """Break the connection, or give it back."""
        if self._session is not None:
            session, self._session = self._session, None
            self._process.connections.pop(self, None)
            self._world.databases.give_back(session)

    terminate = close

    async def _open_session(self) -> Session:
        """Return the session after a moment in which the process may die and the connection break."""
        await self._process.stay_alive()
        if self._session is None:
            raise ConnectionLost
        return self._session

    def _break(self) -> None:
        self.close()
        raise ConnectionLost

    async def _perform(self, verb: str, sql: str, *arguments: Any) -> Any:
        if sql == "SELECT instant()" and self._session is not None:
            return self._began if self._session.in_transaction else self._process.instant()
        session = await self._open_session()
        if self._world.faults.strikes("connection lost"):
            self._break()
        result = await self._world.databases.perform(session, self._process.instant(), verb, sql, arguments)
        self._world.trace("sql", self._process.name, sql[:60], result if isinstance(result, str) else None)
        self._decided = self._decided or _DECIDES.search(f"{sql} {arguments}") is not None
        if not session.in_transaction:
            self._check()
        return result

    def _check(self) -> None:
        """Check what must always hold, if a decision was committed."""
        if self._decided:
            self._decided = False
            self._world.check_instant(self._process.service.name)

    execute = partialmethod(_perform, "execute")
    fetch = partialmethod(_perform, "fetch")
    fetchrow = partialmethod(_perform, "fetchrow")
    fetchval = partialmethod(_perform, "fetchval")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        session = await self._open_session()
        self._began = self._process.instant()
        self._world.databases.begin(session, self._began)
        try:
            yield
        except BaseException:
            if self._session is not None:
                self._world.databases.finish(self._session, "ROLLBACK")
            raise
        await self._commit()

    async def _commit(self) -> None:
        process, faults = self._process, self._world.faults
        session = await self._open_session()
        if faults.strikes("crash before commit"):
            process.crash()
        if faults.strikes("commit lost"):
            self._break()
        self._world.databases.finish(session, "COMMIT")
        self._world.trace("commit", process.name)
        self._check()
        if faults.strikes("crash after commit"):
            process.crash()
        if faults.strikes("commit unknown"):
            self._break()


class SimulatedPool:
    """asyncpg's pool, as far as the services use one."""

    def __init__(self, process: "Process") -> None:
        self._process = process

    async def acquire(self, *, timeout: float) -> SimulatedConnection:  # noqa: ARG002 – asyncpg's signature
        await self._process.stay_alive()
        return SimulatedConnection(self._process)

    async def release(self, connection: SimulatedConnection) -> None:
        connection.close()
