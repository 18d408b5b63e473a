"""Roles and databases: one database per service, reachable by that service and by the one who migrates it."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

# What runs longer than this in a service has gone wrong; the request it belongs to has been answered by then.
STATEMENT_TIMEOUT = "3s"
LOCK_TIMEOUT = "1s"
IDLE_IN_TRANSACTION_TIMEOUT = "5s"
# Any number will do, as long as every provisioning of one server uses the same.
LOCK_KEY = 7_365_102


@dataclass(frozen=True)
class Database:
    """One service's database. Its name is the service's unless said otherwise."""

    service: str
    password: str
    migrator_password: str
    name: str = ""

    @property
    def database(self) -> str:
        return self.name or self.service

    @property
    def migrator(self) -> str:
        return f"{self.service}_migrator"

    def url(self, server_url: str) -> str:
        """Where the service connects: it may read and write rows, and change nothing about the tables."""
        return _with_login(server_url, self.service, self.password, self.database)

    def migrator_url(self, server_url: str) -> str:
        """Where migrations run: as the owner of the database."""
        return _with_login(server_url, self.migrator, self.migrator_password, self.database)


async def provision(server_url: str, databases: Sequence[Database]) -> None:
    """Create what is missing and put right what differs; running it again changes nothing.

    `server_url` belongs to a superuser, or to a role that may create roles and databases.
    """
    connection = await asyncpg.connect(server_url)
    try:
        # Two who create the same role or grant the same right at once would collide. Held until all is done.
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        for database in databases:
            await _create_roles(connection, database)
            await _create_database(connection, database)
            await _grant_inside(server_url, database)
    finally:
        await connection.close()


async def _create_roles(connection: asyncpg.Connection, database: Database) -> None:
    logins = ((database.service, database.password), (database.migrator, database.migrator_password))
    for role, password in logins:
        exists = await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role)
        await _execute(connection, f"{'ALTER' if exists else 'CREATE'} ROLE %I LOGIN PASSWORD %L", role, password)
    for setting, value in (
        ("statement_timeout", STATEMENT_TIMEOUT),
        ("lock_timeout", LOCK_TIMEOUT),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
    ):
        await _execute(connection, f"ALTER ROLE %I SET {setting} = %L", database.service, value)
    if not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        # Only a member of a role may give it a database.
        await _execute(connection, "GRANT %I TO CURRENT_USER", database.migrator)


async def _create_database(connection: asyncpg.Connection, database: Database) -> None:
    if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", database.database):
        await _execute(connection, "CREATE DATABASE %I OWNER %I", database.database, database.migrator)
    await _execute(connection, "REVOKE ALL ON DATABASE %I FROM PUBLIC", database.database)
    await _execute(connection, "GRANT CONNECT ON DATABASE %I TO %I", database.database, database.service)


async def _grant_inside(server_url: str, database: Database) -> None:
    """As the owner: rights on the tables that migrations will make. A migration may take some of them away again."""
    connection = await asyncpg.connect(database.migrator_url(server_url))
    try:
        service = database.service
        await connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        await _execute(connection, "GRANT USAGE ON SCHEMA public TO %I", service)
        ours = "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT"
        await _execute(connection, f"{ours} SELECT, INSERT, UPDATE, DELETE ON TABLES TO %I", service)
        await _execute(connection, f"{ours} USAGE ON SEQUENCES TO %I", service)
    finally:
        await connection.close()


async def _execute(connection: asyncpg.Connection, statement: str, *names: str) -> None:
    """Run a statement whose names and passwords stand as %I and %L: DDL takes no parameters, so the server quotes."""
    places = ", ".join(f"${number}::text" for number in range(2, len(names) + 2))
    await connection.execute(await connection.fetchval(f"SELECT format($1, {places})", statement, *names))


def _with_login(server_url: str, user: str, password: str, database: str) -> str:
    parts = urlsplit(server_url)
    place = parts.netloc.rpartition("@")[2]
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{place}", path=f"/{quote(database, safe='')}"))
