"""Expired sessions and old attempt counters are deleted; the others stay."""

from admitone.auth.service import SERVICE
from tests.engines import Databases
from tests.support import StartNats, app_of, eventually, settings_for, sign_in, sign_up


async def test_expired_sessions_and_old_attempts_are_deleted(databases: Databases, start_nats: StartNats) -> None:
    settings = await settings_for(databases, start_nats, SERVICE)
    async with app_of([SERVICE], settings) as app, app.client() as alice, app.client() as phone:
        await sign_up(alice, "alice@example.com")
        await sign_in(phone, "alice@example.com")
        for number in range(2):
            wrong = {"email": f"nobody{number}@example.com", "password": "not the password"}
            await alice.post("/api/users/signin", json=wrong)
        db = app.running["auth"].database
        await db.execute(
            "UPDATE session SET started_at = started_at - interval '32 days', "
            "expires_at = started_at - interval '31 days' "
            "WHERE id = (SELECT id FROM session ORDER BY id LIMIT 1)"
        )
        await db.execute(
            "UPDATE attempts SET last_at = instant() - interval '25 hours', "
            "wait_until = instant() - interval '25 hours' "
            "WHERE key = (SELECT key FROM attempts ORDER BY key LIMIT 1)"
        )
    async with app_of([SERVICE], settings) as app:
        db = app.running["auth"].database

        async def are_deleted() -> bool:
            counts = "SELECT (SELECT count(*) FROM session), (SELECT count(*) FROM attempts)"
            return tuple(await db.fetchrow(counts) or ()) == (1, 2)

        await eventually(are_deleted, "one session and two counters are left")
