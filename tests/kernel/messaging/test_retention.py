"""Retention deletes rows past their time, and no others."""

from admitone.kernel.database.pool import Database
from admitone.kernel.ids import new_id
from admitone.kernel.messaging.retention import prune
from tests import engines


async def test_only_rows_past_their_retention_are_deleted(databases: engines.Databases) -> None:
    fresh = await databases.fresh("orders")
    database = await Database.connect(fresh.url, application="orders")
    try:
        outbox = (
            "INSERT INTO outbox (id, type, aggregate, data, recorded_at, stream_sequence) "
            "VALUES ($1, 'OrderCreated', $1, $2, instant() - make_interval(days => $3), $4)"
        )
        await database.execute(outbox, new_id(), "old and published", 8, 1)
        await database.execute(outbox, new_id(), "old and unpublished", 8, None)
        await database.execute(outbox, new_id(), "young", 6, 2)
        for days in (15, 17):
            await database.execute(
                "INSERT INTO inbox (id, received_at) VALUES ($1, instant() - make_interval(days => $2))", new_id(), days
            )
            await database.execute(
                "INSERT INTO idempotent_response (user_id, key, request_hash, status, body, created_at) "
                "VALUES ($1, 'k', '', 201, '', instant() - make_interval(days => $2))",
                new_id(),
                days - 9,
            )
        assert await prune(database) == 3
        kept = {row["data"] for row in await database.fetch("SELECT data FROM outbox")}
        assert kept == {"old and unpublished", "young"}
        assert await database.fetchval("SELECT count(*) FROM inbox") == 1
        assert await database.fetchval("SELECT count(*) FROM idempotent_response") == 1
    finally:
        await database.close()
