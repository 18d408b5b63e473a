"""What the sandbox holds: each request's effect, its events and its idempotent answer in one statement."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import asyncpg
import msgspec

from admitone.kernel.database.batching import Batcher as Gatherer
from admitone.sandbox.problems import Json, invalid

# Held for as long as a sandbox runs on the database: in-flight keys and locks on intents live in its one process.
_ONE_AT_A_TIME: Final = 0x5A4DB0
_LOCK_WAIT_SECONDS: Final = 15

_RECORD: Final = """
WITH answered AS (
    INSERT INTO answer (key, path, fingerprint, status, body, request_id)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::smallint[], $5::text[], $6::text[])
),
intents AS (
    INSERT INTO payment_intent (id, created, capture_before, body)
    SELECT * FROM unnest($7::text[], $8::bigint[], $9::bigint[], $10::jsonb[])
    ON CONFLICT (id) DO UPDATE SET capture_before = excluded.capture_before, body = excluded.body
),
refunds AS (
    INSERT INTO refund (id, created, payment_intent, body)
    SELECT * FROM unnest($11::text[], $12::bigint[], $13::text[], $14::jsonb[])
),
tokens AS (
    INSERT INTO confirmation_token (id, is_used, body)
    SELECT * FROM unnest($15::text[], $16::boolean[], $17::jsonb[])
    ON CONFLICT (id) DO UPDATE SET is_used = excluded.is_used
)
INSERT INTO event (id, created, type, body, next_try_at)
SELECT id, created, type, body, CASE WHEN is_wanted THEN now() END
FROM unnest($18::text[], $19::bigint[], $20::text[], $21::text[], $22::boolean[])
    AS told (id, created, type, body, is_wanted)
"""
_RECALL: Final = "SELECT path, fingerprint, status, body, request_id FROM answer WHERE key = $1"
_INTENT: Final = "SELECT body FROM payment_intent WHERE id = $1"
_TOKEN: Final = "SELECT body, is_used FROM confirmation_token WHERE id = $1"  # noqa: S105 – a statement
_REFUND: Final = "SELECT body FROM refund WHERE id = $1"
_EVENT: Final = "SELECT body FROM event WHERE id = $1"
_LAPSED: Final = "SELECT body FROM payment_intent WHERE capture_before <= $1 LIMIT 100"
_FORGET: Final = "DELETE FROM answer WHERE given_at < now() - interval '24 hours'"

_WAITING: Final = """
SELECT id, type, body, tries, extract(epoch FROM next_try_at - now())::float8 AS due_in_seconds
FROM event WHERE next_try_at IS NOT NULL ORDER BY number
"""
_SENT: Final = "UPDATE event SET tries = tries + 1, next_try_at = NULL WHERE id = ANY($1::text[])"
_NOT_SENT: Final = "UPDATE event SET tries = tries + 1, next_try_at = now() + $2 * interval '1 second' WHERE id = $1"

_TABLES: Final = frozenset({"payment_intent", "refund", "event"})


@dataclass(frozen=True)
class Told:
    """An event as it is kept; `is_wanted` says that the webhook endpoint asked for its type."""

    id: str
    created: int
    type: str
    body: str
    is_wanted: bool


@dataclass(frozen=True)
class Keyed:
    """The answer that an idempotency key stands for."""

    key: str
    path: str
    fingerprint: bytes
    status: int
    body: str
    request_id: str


@dataclass(frozen=True)
class Effect:
    """Everything one request changes."""

    intents: tuple[Json, ...] = ()
    refunds: tuple[Json, ...] = ()
    tokens: tuple[tuple[Json, bool], ...] = ()


_Record = tuple[Effect, Sequence[Told], Keyed | None]


@dataclass(frozen=True)
class Page:
    """Where a list starts and how long it is."""

    limit: int = 10
    starting_after: str | None = None
    ending_before: str | None = None
    created: Json | int | None = None


class KeyTaken(Exception):
    """The idempotency key already has an answer"""


def encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _decode(text: str) -> Json:
    decoded: Json = msgspec.json.decode(text)
    return decoded


async def _keep_session_state(_connection: object) -> None:
    """Nothing here leaves state on a connection, and asyncpg's reset costs a round trip."""


class Ledger:
    """The sandbox's own database."""

    def __init__(self, pool: "asyncpg.Pool[Any]", lock: "asyncpg.Connection[Any]") -> None:
        self._pool = pool
        self._lock = lock
        self._gathered: Gatherer[_Record, None] = Gatherer(self._record_all)

    @classmethod
    async def open(cls, url: str, *, connections: int = 12) -> "Ledger":
        """Open the database, whose tables are made where they are missing; the role must own it."""
        lock = await asyncpg.connect(url, server_settings={"application_name": "sandbox"})
        try:
            # One that was killed a moment ago may still be in the database's list of sessions.
            await lock.execute("SELECT pg_advisory_lock($1)", _ONE_AT_A_TIME, timeout=_LOCK_WAIT_SECONDS)
            await lock.execute((resources.files("admitone.sandbox") / "schema.sql").read_text())
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=connections,
                max_inactive_connection_lifetime=0,
                reset=_keep_session_state,
                server_settings={"application_name": "sandbox", "jit": "off"},
            )
        except BaseException:
            await lock.close()
            raise
        return cls(pool, lock)

    async def close(self) -> None:
        try:
            await asyncio.wait_for(self._pool.close(), timeout=5)
        except TimeoutError:
            self._pool.terminate()
        await self._lock.close()

    async def record(self, effect: Effect, told: Sequence[Told], answer: Keyed | None) -> None:
        """Keep what a request did, all of it or nothing; raises KeyTaken when its key was answered before."""
        await self._gathered((effect, told, answer))

    async def _record_all(self, records: Sequence[_Record]) -> list[None]:
        answers = [answer for _, _, answer in records if answer is not None]
        intents = [intent for effect, _, _ in records for intent in effect.intents]
        refunds = [refund for effect, _, _ in records for refund in effect.refunds]
        tokens = [token for effect, _, _ in records for token in effect.tokens]
        events = [event for _, told, _ in records for event in told]
        try:
            await self._pool.execute(
                _RECORD,
                [each.key for each in answers],
                [each.path for each in answers],
                [each.fingerprint for each in answers],
                [each.status for each in answers],
                [each.body for each in answers],
                [each.request_id for each in answers],
                [each["id"] for each in intents],
                [each["created"] for each in intents],
                [each.get("_capture_before") for each in intents],
                [encode(each) for each in intents],
                [each["id"] for each in refunds],
                [each["created"] for each in refunds],
                [each["payment_intent"] for each in refunds],
                [encode(each) for each in refunds],
                [each["id"] for each, _ in tokens],
                [is_used for _, is_used in tokens],
                [encode(each) for each, _ in tokens],
                [each.id for each in events],
                [each.created for each in events],
                [each.type for each in events],
                [each.body for each in events],
                [each.is_wanted for each in events],
            )
        except asyncpg.UniqueViolationError as violation:
            if violation.constraint_name == "answer_pkey":
                raise KeyTaken from None
            raise
        return [None] * len(records)

    async def recall(self, key: str) -> Keyed:
        """Return the answer given before under a key that is taken."""
        row = await self._pool.fetchrow(_RECALL, key)
        assert row is not None, "a key is forgotten only after a day"
        return Keyed(key, row["path"], row["fingerprint"], row["status"], row["body"], row["request_id"])

    async def intent(self, intent_id: str) -> Json | None:
        return await self._one(_INTENT, intent_id)

    async def refund(self, refund_id: str) -> Json | None:
        return await self._one(_REFUND, refund_id)

    async def event(self, event_id: str) -> Json | None:
        return await self._one(_EVENT, event_id)

    async def unused_token(self, token_id: str) -> Json | None:
        row = await self._pool.fetchrow(_TOKEN, token_id)
        return None if row is None or row["is_used"] else _decode(row["body"])

    async def _one(self, statement: str, object_id: str) -> Json | None:
        body = await self._pool.fetchval(statement, object_id)
        return None if body is None else _decode(body)

    async def listed(self, table: str, page: Page, wanted: str = "true", *arguments: object) -> tuple[list[Json], bool]:
        """Return one page of a table, the newest first, and whether more follow.

        `wanted` is a condition of ours in SQL whose parameters start at $1.
        """
        assert table in _TABLES
        conditions, values = [wanted], list(arguments)
        for operator, bound in _bounds(page.created):
            values.append(bound)
            conditions.append(f"created {operator} ${len(values)}")
        backwards = page.ending_before is not None
        if cursor := page.starting_after or page.ending_before:
            number = await self._pool.fetchval(f"SELECT number FROM {table} WHERE id = $1", cursor)  # noqa: S608
            if number is None:
                raise invalid(f"No such {table}: '{cursor}'", code="resource_missing", param="starting_after")
            values.append(number)
            conditions.append(f"number {'>' if backwards else '<'} ${len(values)}")
        rows = await self._pool.fetch(
            f"SELECT body FROM {table} WHERE {' AND '.join(conditions)}"  # noqa: S608 – names and operators of ours
            f" ORDER BY number {'ASC' if backwards else 'DESC'} LIMIT {page.limit + 1}",
            *values,
        )
        found = [_decode(row["body"]) for row in rows[: page.limit]]
        return found[::-1] if backwards else found, len(rows) > page.limit

    async def lapsed_intents(self, now: int) -> list[Json]:
        return [_decode(row["body"]) for row in await self._pool.fetch(_LAPSED, now)]

    async def forget_old_keys(self) -> None:
        await self._pool.execute(_FORGET)

    async def waiting_events(self) -> list[Any]:
        """Return the events that the webhook endpoint has not taken yet, in the order they happened."""
        waiting: list[Any] = await self._pool.fetch(_WAITING)
        return waiting

    async def sent(self, event_ids: list[str]) -> None:
        await self._pool.execute(_SENT, event_ids)

    async def not_sent(self, event_id: str, again_in_seconds: float | None) -> None:
        await self._pool.execute(_NOT_SENT, event_id, again_in_seconds)


def _bounds(created: Json | int | None) -> list[tuple[str, int]]:
    if created is None:
        return []
    if isinstance(created, int):
        return [("=", created)]
    operators = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
    return [(operators[name], bound) for name, bound in created.items()]
