"""A database created in the cluster grants exactly the rights of one created by `admitone up`."""

import asyncpg

from admitone.kernel.database.migrations import migrate
from admitone.local.postgres import Postgres
from admitone.local.provision import DatabaseAccount, provision
from tests.deploy.manifests import ROOT

SCRIPT = (ROOT / "deploy" / "postgres" / "database.sql").read_text()
# Names that no other test uses: roles belong to the whole server.
LOCAL = DatabaseAccount("created_here", "password", "password")
CLUSTER = DatabaseAccount("created_there", "password", "password")


async def create_as_the_cluster_does(server_url: str) -> None:
    """CloudNativePG creates the owner and its database, runs our script in it as superuser, then sets a password."""
    name, connection = CLUSTER.service, await asyncpg.connect(server_url)
    await connection.execute(f"CREATE ROLE {CLUSTER.migrator} LOGIN PASSWORD 'password'")
    await connection.execute(f"CREATE DATABASE {name} OWNER {CLUSTER.migrator}")
    await connection.close()
    for _ in range(2):  # the script is idempotent
        connection = await asyncpg.connect(f"{server_url.rpartition('/')[0]}/{name}")
        await connection.execute(SCRIPT)
        await connection.execute(f"ALTER ROLE {name} LOGIN PASSWORD 'password'")
        await connection.close()


async def granted(server_url: str, database: DatabaseAccount) -> dict[str, object]:
    """Return every right that is granted, with the service's name replaced."""
    connection = await asyncpg.connect(f"{server_url.rpartition('/')[0]}/{database.service}")

    async def shown(sql: str) -> object:
        rows = await connection.fetch(sql)
        return sorted(str(tuple(row)).replace(database.service, "SERVICE") for row in rows)

    try:
        role = f"rolname IN ('{database.service}', '{database.migrator}')"
        mine = "(SELECT oid FROM pg_roles WHERE rolname = current_database())"
        return {
            "roles": await shown(
                "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, "
                f"rolconfig FROM pg_roles WHERE {role}"
            ),
            "database": await shown("SELECT unnest(datacl)::text FROM pg_database WHERE datname = current_database()"),
            "tables": await shown(
                "SELECT table_name, grantee, privilege_type FROM information_schema.table_privileges "
                "WHERE table_schema = 'public'"
            ),
            "columns": await shown(
                "SELECT table_name, column_name, privilege_type FROM information_schema.column_privileges "
                "WHERE table_schema = 'public' AND grantee = current_database()"
            ),
            "sequences": await shown("SELECT relname, unnest(relacl)::text FROM pg_class WHERE relkind = 'S'"),
            "schema": await shown(
                f"SELECT has_schema_privilege({mine}, 'public', 'CREATE'), "
                f"has_schema_privilege({mine}, 'public', 'USAGE')"
            ),
        }
    finally:
        await connection.close()


async def test_databases_of_the_cluster_grant_the_rights_of_local_ones(private_postgres: Postgres) -> None:
    server_url = private_postgres.url()
    await provision(server_url, [LOCAL])
    await create_as_the_cluster_does(server_url)
    for database in (LOCAL, CLUSTER):
        await migrate(database.migrator_url(server_url), database.service)
    assert await granted(server_url, CLUSTER) == await granted(server_url, LOCAL)
