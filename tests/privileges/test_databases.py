"""Every role against every database, table and privilege: a service has only the rights that it needs."""

import itertools
from collections.abc import Mapping
from typing import Final

import asyncpg
import pytest

from admitone.kernel.ids import new_id
from admitone.registry import SERVICES
from tests.engines import Databases, Fresh

NAMES: Final = [service.name for service in SERVICES if service.has_database]
PRIVILEGES: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
ALL, KEPT, LISTED = "SELECT INSERT UPDATE DELETE", "SELECT INSERT UPDATE", "SELECT INSERT DELETE"

# The privileges of a service on its own tables; it has no others.
EVERYWHERE: Final[Mapping[str, str]] = {
    "applied_migration": "SELECT",
    "outbox": LISTED,
    "inbox": LISTED,
    "dead_letter": ALL,
    "aggregate_version": KEPT,
    "idempotent_response": LISTED,
    "revoked_session": LISTED,
    "subscription": ALL,
}
OWN: Final[Mapping[str, Mapping[str, str]]] = {
    "auth": {"account": "SELECT INSERT", "session": ALL, "attempts": ALL},
    "tickets": {"ticket": KEPT},
    "orders": {"ticket": KEPT, "orders": KEPT},
    "expiration": {"deadline": ALL},
    "payments": {
        "installation": "SELECT",
        "orders": KEPT,
        "payment": KEPT,
        "unknown_intent": ALL,
        "webhook": LISTED,
    },
}
# The columns that a service may update in tables without the UPDATE privilege.
UPDATABLE_COLUMNS: Final[Mapping[str, set[str]]] = {
    "outbox": {"stream_sequence", "copies"},
    "account": {"email", "password_hash", "version"},
    "installation": {"reconciled_until", "database", "stripe_account"},
    "webhook": {"processed_at", "outcome"},
}


async def tables(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return [row["relname"] for row in rows]


@pytest.mark.parametrize("name", NAMES)
async def test_a_service_has_the_privileges_on_its_tables_that_it_needs_and_no_others(
    databases: Databases, name: str
) -> None:
    fresh = await databases.fresh(name)
    connection = await asyncpg.connect(fresh.superuser_url)
    # A service that revokes nothing has every privilege on rows of its own tables.
    own = OWN.get(name) or dict.fromkeys(set(await tables(connection)) - set(EVERYWHERE), ALL)
    expected = {table: set(verbs.split()) for table, verbs in {**EVERYWHERE, **own}.items()}
    found: dict[str, set[str]] = {}
    columns: dict[str, set[str]] = {}
    for table in await tables(connection):
        found[table] = {
            privilege
            for privilege in PRIVILEGES
            if await connection.fetchval("SELECT has_table_privilege($1, $2, $3)", name, table, privilege)
        }
        updatable = await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $2::text::regclass AND attnum > 0 AND NOT attisdropped "
            "AND has_column_privilege($1, attrelid, attnum, 'UPDATE')",
            name,
            table,
        )
        if "UPDATE" not in found[table] and updatable:
            columns[table] = {row["attname"] for row in updatable}
    await connection.close()
    assert found == expected
    assert columns == {table: changed for table, changed in UPDATABLE_COLUMNS.items() if table in expected}


@pytest.mark.parametrize("name", NAMES)
async def test_a_service_cannot_change_or_create_tables(databases: Databases, name: str) -> None:
    fresh = await databases.fresh(name)
    connection = await asyncpg.connect(fresh.url)
    statements = [
        "CREATE TABLE mine (id integer)",
        "CREATE SCHEMA mine",
        "CREATE TEMPORARY TABLE mine (id integer)",
        "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql RETURN 1",
        "CREATE OR REPLACE FUNCTION instant() RETURNS timestamptz LANGUAGE sql RETURN now()",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        "DROP TABLE outbox",
        "ALTER TABLE outbox ADD COLUMN mine integer",
        "ALTER TABLE outbox DISABLE TRIGGER ALL",
        "TRUNCATE inbox",
        "COPY outbox TO PROGRAM 'true'",
        "SET session_replication_role = replica",
        f"SET ROLE {name}_migrator",
        "SET ROLE postgres",
    ]
    for statement in statements:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


@pytest.mark.parametrize(("role", "database"), [each for each in itertools.product(NAMES, NAMES) if each[0] != each[1]])
async def test_no_role_can_connect_to_another_service_s_database(
    databases: Databases, role: str, database: str
) -> None:
    own, other = await databases.fresh(role), await databases.fresh(database)
    for url in (own.url, own.migrator_url):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(f"{url.rpartition('/')[0]}/{other.name}")


@pytest.mark.parametrize("name", NAMES)
async def test_no_role_has_privileges_beyond_its_database(databases: Databases, name: str) -> None:
    fresh = await databases.fresh(name)
    connection = await asyncpg.connect(fresh.superuser_url)
    for role in (name, f"{name}_migrator"):
        rights = await connection.fetchrow(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls "
            "FROM pg_roles WHERE rolname = $1",
            role,
        )
        assert rights is not None
        assert not any(rights), role
        groups = await connection.fetch("SELECT roleid FROM pg_auth_members WHERE member = $1::text::regrole", role)
        assert not groups, role
    await connection.close()


@pytest.mark.parametrize("name", NAMES)
async def test_published_events_cannot_be_changed(databases: Databases, name: str) -> None:
    fresh = await databases.fresh(name)
    connection = await asyncpg.connect(fresh.url)
    await connection.execute(
        "INSERT INTO outbox (id, type, aggregate, data) VALUES ($1, 'TicketCreated', $1, '{}')", new_id()
    )
    for column in ("id", "type", "aggregate", "version", "data", "traceparent", "recorded_at"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"UPDATE outbox SET {column} = {column}")
    assert await connection.execute("UPDATE outbox SET stream_sequence = 7, copies = 1") == "UPDATE 1"
    await connection.close()


async def test_payments_cannot_be_deleted_or_changed(databases: Databases) -> None:
    """Privileges forbid it to the service, and a trigger forbids it even to the owner of the table."""
    fresh: Fresh = await databases.fresh("payments")
    service, owner = await asyncpg.connect(fresh.url), await asyncpg.connect(fresh.migrator_url)
    for table in ("payment", "orders"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await service.execute(f"DELETE FROM {table}")
    order, payment = new_id(), new_id()
    await owner.execute(
        "INSERT INTO orders (id, version, status, buyer_id, price_cents, currency, expires_at) "
        "VALUES ($1, 0, 'created', $1, 100, 'usd', now())",
        order,
    )
    await owner.execute(
        "INSERT INTO payment (id, order_id, attempt, buyer_id, amount_cents, currency, token) "
        "VALUES ($1, $2, 1, $2, 100, 'usd', 'tok')",
        payment,
        order,
    )
    for statement in ("DELETE FROM payment", "UPDATE payment SET amount_cents = 1"):
        with pytest.raises(asyncpg.RaiseError):
            await owner.execute(statement)
    await service.close()
    await owner.close()
