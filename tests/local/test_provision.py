"""A service can connect to its own database, read and write rows there, and do nothing else."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from admitone.local.postgres import Postgres
from admitone.local.provision import DatabaseAccount, provision

# Names that no other test uses: roles belong to the whole server.
BUYING = DatabaseAccount("buying", "b-password", "bm-password")
SELLING = DatabaseAccount("selling", "s-password", "sm-password", name="selling_here")
BOTH = [BUYING, SELLING]


@pytest_asyncio.fixture
async def server(postgres: Postgres) -> AsyncIterator[str]:
    await provision(postgres.url(), BOTH)
    yield postgres.url()
    connection = await asyncpg.connect(postgres.url())
    for database in BOTH:
        await connection.execute(f"DROP DATABASE IF EXISTS {database.database} WITH (FORCE)")
        await connection.execute(f"DROP ROLE IF EXISTS {database.service}, {database.migrator}")
    await connection.close()


async def run(url: str, *statements: str) -> object:
    """Run statements and return the single value of the last one."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


async def test_the_migrator_creates_tables_and_the_service_uses_them(server: str) -> None:
    await run(
        BUYING.migrator_url(server),
        "CREATE TABLE holding (id bigint GENERATED ALWAYS AS IDENTITY, number serial, who text)",
        "SELECT 1",
    )
    assert (
        await run(
            BUYING.url(server),
            "INSERT INTO holding (who) VALUES ('alice'), ('bob')",
            "UPDATE holding SET who = 'carol' WHERE who = 'bob'",
            "DELETE FROM holding WHERE who = 'alice'",
            "SELECT who FROM holding",
        )
        == "carol"
    )


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id int)",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER TABLE holding ADD COLUMN more text",
        "TRUNCATE holding",
        "DROP TABLE holding",
        "CREATE TRIGGER mine BEFORE INSERT ON holding EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE DATABASE mine",
        "CREATE ROLE mine",
        "SET ROLE buying_migrator",
        "COPY holding TO '/tmp/holding'",
        "COPY holding FROM PROGRAM 'id'",
    ],
)
async def test_a_service_cannot_change_tables_or_leave_its_database(server: str, statement: str) -> None:
    await run(BUYING.migrator_url(server), "CREATE TABLE holding (id bigint, who text)", "SELECT 1")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run(BUYING.url(server), statement, "SELECT 1")


@pytest.mark.parametrize(("visitor", "host"), [(BUYING, SELLING), (SELLING, BUYING)])
async def test_no_role_can_connect_to_the_database_of_another_service(
    server: str, visitor: DatabaseAccount, host: DatabaseAccount
) -> None:
    for url in (visitor.url(server), visitor.migrator_url(server)):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await run(f"{url.rpartition('/')[0]}/{host.database}", "SELECT 1")


async def test_a_right_revoked_by_a_migration_stays_revoked(server: str) -> None:
    await run(
        BUYING.migrator_url(server),
        "CREATE TABLE ledger (cents bigint)",
        "REVOKE UPDATE, DELETE ON ledger FROM buying",
        "SELECT 1",
    )
    await provision(server, BOTH)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run(BUYING.url(server), "UPDATE ledger SET cents = 0", "SELECT 1")


async def test_provisioning_again_changes_passwords_and_keeps_data(server: str) -> None:
    await run(BUYING.migrator_url(server), "CREATE TABLE holding AS SELECT 'alice' AS who", "SELECT 1")
    rotated = DatabaseAccount("buying", "new ' \\ password", "new m password")
    await provision(server, [rotated])
    assert await run(rotated.url(server), "SELECT who FROM holding") == "alice"
    with pytest.raises(asyncpg.InvalidPasswordError):
        await run(BUYING.url(server), "SELECT 1")


async def test_provisioning_concurrently_is_safe(server: str) -> None:
    await asyncio.gather(*(provision(server, BOTH) for _ in range(4)))
    assert await run(BUYING.url(server), "SELECT current_user") == "buying"


async def test_a_role_that_may_create_roles_and_databases_is_enough(server: str) -> None:
    """As on a hosted PostgreSQL, which gives out no superuser."""
    keeper = DatabaseAccount("keeper", "k-password", "unused")
    letting = DatabaseAccount("letting", "l-password", "lm-password")
    await run(server, "CREATE ROLE keeper LOGIN CREATEROLE CREATEDB PASSWORD 'k-password'", "SELECT 1")
    try:
        server_url = keeper.url(server).rpartition("/")[0] + "/postgres"
        await provision(server_url, [letting])
        await provision(server_url, [letting])
        await run(letting.migrator_url(server), "CREATE TABLE room AS SELECT 'attic' AS name", "SELECT 1")
        assert await run(letting.url(server), "SELECT name FROM room") == "attic"
    finally:
        await run(
            server,
            "DROP DATABASE IF EXISTS letting",
            "DROP ROLE IF EXISTS letting, letting_migrator, keeper",
            "SELECT 1",
        )


async def test_statements_of_a_service_have_timeouts(server: str) -> None:
    assert await run(BUYING.url(server), "SHOW statement_timeout") == "3s"
    assert await run(BUYING.url(server), "SHOW lock_timeout") == "1s"
    assert await run(BUYING.url(server), "SHOW idle_in_transaction_session_timeout") == "5s"
    assert await run(BUYING.migrator_url(server), "SHOW statement_timeout") == "0"


@pytest.mark.parametrize("login", [BUYING.url, BUYING.migrator_url], ids=["service", "migrator"])
async def test_no_value_of_a_failing_or_slow_statement_is_logged(folder: Path, login: Callable[[str], str]) -> None:
    """In any format: CloudNativePG reads csvlog, in which log_error_verbosity has no effect on details."""
    postgres = Postgres(folder / "postgres", "postgres-password", durable=False)
    postgres.settings = postgres.settings | {
        "logging_collector": "on",
        "log_destination": "stderr,csvlog,jsonlog",
        "log_min_duration_statement": "0",
    }
    postgres.start()
    try:
        await provision(postgres.url(), [BUYING])
        await run(
            BUYING.migrator_url(postgres.url()),
            "CREATE TABLE account (email text UNIQUE CHECK (email NOT LIKE 'bob@%'), token text)",
            "SELECT 1",
        )
        connection = await asyncpg.connect(login(postgres.url()))
        add = "INSERT INTO account VALUES ($1, $2)"
        await connection.execute(add, "alice@example.com", "a-token")
        for email, error in (
            ("alice@example.com", asyncpg.UniqueViolationError),
            ("bob@example.com", asyncpg.CheckViolationError),
        ):
            with pytest.raises(error, match=email):
                await connection.execute(add, email, "a-token")
        with pytest.raises(asyncpg.InvalidTextRepresentationError):
            await connection.fetchval("SELECT $1::text::integer", "carol@example.com")
        await connection.close()
    finally:
        postgres.stop()
    logs = {file.suffix: file.read_text() for file in (postgres.folder / "log").iterdir()}
    assert logs.keys() == {".log", ".csv", ".json"}
    for text in logs.values():
        assert add in text, "slow statements are logged"
        assert not re.findall(r"\w+@example|a-token", text)
