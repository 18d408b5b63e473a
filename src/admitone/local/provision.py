"""Databases and roles: each service has its own database, and a second role that owns and migrates it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

# A statement of a service that takes longer has failed; its request has been answered by then.
STATEMENT_TIMEOUT = "3s"
LOCK_TIMEOUT = "1s"
IDLE_IN_TRANSACTION_TIMEOUT = "5s"
# What PostgreSQL logs of a failing statement quotes rows and parameters, such as e-mail addresses, whatever
# log_error_verbosity is: the formats csvlog and jsonlog ignore it. The client gets and reports the error anyway. Slow
# statements are still logged, without their parameters.
UNLOGGED = {"log_min_messages": "log", "log_parameter_max_length": "0"}
# An arbitrary number that every provisioning of one server uses.
LOCK_KEY = 7_365_102


@dataclass(frozen=True)
class DatabaseAccount:
    """One service's database and its two roles. The database is named after the service unless `name` is given."""

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
        """Return the URL for the service, which may read and write rows but not change tables."""
        return _with_login(server_url, self.service, self.password, self.database)

    def migrator_url(self, server_url: str) -> str:
        """Return the URL for migrations, which run as the owner of the database."""
        return _with_login(server_url, self.migrator, self.migrator_password, self.database)


async def provision(server_url: str, databases: Sequence[DatabaseAccount]) -> None:
    """Create what is missing and correct what differs. Idempotent.

    `server_url` belongs to a superuser, or to a role that may create roles and databases.
    """
    connection = await asyncpg.connect(server_url)
    try:
        # Concurrent creations of the same role, or grants of the same right, would conflict.
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        for database in databases:
            await _create_roles(connection, database)
            await _create_database(connection, database)
            await _grant_inside(server_url, database)
    finally:
        await connection.close()


async def _create_roles(connection: asyncpg.Connection, database: DatabaseAccount) -> None:
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
    if await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        for (role, _), (setting, value) in itertools.product(logins, UNLOGGED.items()):
            await _execute(connection, f"ALTER ROLE %I SET {setting} = %L", role, value)
    else:
        # Only a superuser may decide what is logged. Only a member of a role may make it the owner of a database.
        await _execute(connection, "GRANT %I TO CURRENT_USER", database.migrator)


async def _create_database(connection: asyncpg.Connection, database: DatabaseAccount) -> None:
    if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", database.database):
        await _execute(connection, "CREATE DATABASE %I OWNER %I", database.database, database.migrator)
    await _execute(connection, "REVOKE ALL ON DATABASE %I FROM PUBLIC", database.database)
    await _execute(connection, "GRANT CONNECT ON DATABASE %I TO %I", database.database, database.service)


async def _grant_inside(server_url: str, database: DatabaseAccount) -> None:
    """Grant, as the owner, rights on the tables that migrations will create. A migration may revoke some of them."""
    connection = await asyncpg.connect(database.migrator_url(server_url))
    try:
        service = database.service
        await connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        await _execute(connection, "GRANT USAGE ON SCHEMA public TO %I", service)
        grant = "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT"
        await _execute(connection, f"{grant} SELECT, INSERT, UPDATE, DELETE ON TABLES TO %I", service)
        await _execute(connection, f"{grant} USAGE ON SEQUENCES TO %I", service)
    finally:
        await connection.close()


async def _execute(connection: asyncpg.Connection, statement: str, *names: str) -> None:
    """Run a statement with %I and %L for names and passwords. DDL takes no parameters, so the server quotes them."""
    parameters = ", ".join(f"${number}::text" for number in range(2, len(names) + 2))
    await connection.execute(await connection.fetchval(f"SELECT format($1, {parameters})", statement, *names))


def _with_login(server_url: str, user: str, password: str, database: str) -> str:
    parts = urlsplit(server_url)
    host = parts.netloc.rpartition("@")[2]
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{host}", path=f"/{quote(database, safe='')}"))
