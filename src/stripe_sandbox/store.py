"""The sandbox's state in one SQLite file: objects, events to deliver, and replies by idempotency key.

Statements run in the event loop's thread and take well under a millisecond. A transaction has no `await` in it, so
transactions never overlap and need no locks.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from stripe_sandbox.errors import Json, no_such
from stripe_sandbox.parameters import ListParams

_PLACE: Final = "SELECT created, number FROM object WHERE id = ? AND kind = ?"
_HAS_FIELD: Final = "number IN (SELECT number FROM field WHERE name = ? AND value = ?)"
_COMPARISONS: Final = {"": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class Reply(NamedTuple):
    status: int
    body: str
    request_id: str


class Store:
    """The open file; no other process can open it meanwhile."""

    def __init__(self, path: Path, lock_seconds: float) -> None:
        """Open the file; raises sqlite3.OperationalError when another process keeps it locked for so long."""
        self._db = sqlite3.connect(path, timeout=lock_seconds, isolation_level=None)
        try:
            self._db.executescript((resources.files("stripe_sandbox") / "schema.sql").read_text())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block writes, or nothing if it raises."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def find(self, kind: str, object_id: str) -> Json | None:
        row = self._db.execute("SELECT body FROM object WHERE id = ? AND kind = ?", (object_id, kind)).fetchone()
        return None if row is None else msgspec.json.decode(row[0])

    def save(self, saved: Json) -> None:
        """Insert an object or replace it; the fields it is found by never change."""
        row = (saved.get("status"), encode(saved), saved["id"], saved["object"], saved["created"])
        if self._db.execute("UPDATE object SET status = ?, body = ? WHERE id = ?", row[:3]).rowcount:
            return
        inserted = self._db.execute("INSERT INTO object (status, body, id, kind, created) VALUES (?, ?, ?, ?, ?)", row)
        fields = [(name, value, inserted.lastrowid) for name, value in _found_by(saved).items()]
        self._db.executemany("INSERT INTO field (name, value, number) VALUES (?, ?, ?)", fields)

    def page(self, kind: str, params: ListParams, found_by: Mapping[str, str]) -> tuple[list[Json], bool]:
        """Return a page of the objects with these fields or status, and whether more follow; raises ApiError."""
        # With the plus, SQLite begins with the few objects that have a field, and not with the whole list.
        conditions = ["+kind = ?" if found_by.keys() - {"status"} else "kind = ?"]
        values: list[object] = [kind]
        for name, value in found_by.items():
            conditions.append("status = ?" if name == "status" else _HAS_FIELD)
            values += [value] if name == "status" else [name, value]
        created = {"": params.created} if isinstance(params.created, int) else params.created or {}
        for name, bound in created.items():
            conditions.append(f"created {_COMPARISONS[name]} ?")
            values.append(bound)
        comparison, order = ("<", "DESC") if params.ending_before is None else (">", "ASC")
        if cursor := params.starting_after or params.ending_before:
            if (place := self._db.execute(_PLACE, (cursor, kind)).fetchone()) is None:
                raise no_such(kind, cursor, "starting_after" if params.starting_after else "ending_before")
            conditions.append(f"(created, number) {comparison} (?, ?)")
            values += place
        statement = f"SELECT body FROM object WHERE {' AND '.join(conditions)}"  # noqa: S608 - constants from above
        statement += f" ORDER BY created {order}, number {order} LIMIT ?"
        rows = self._db.execute(statement, (*values, params.limit + 1)).fetchall()
        found = [msgspec.json.decode(body) for (body,) in rows[: params.limit]]
        return found if order == "DESC" else found[::-1], len(rows) > params.limit

    def authorized_until(self, created: int) -> list[str]:
        """Return the ids of PaymentIntents that were created by then and whose money is still held."""
        statement = "SELECT id FROM object WHERE status = 'requires_capture' AND created <= ? LIMIT 100"
        return [object_id for (object_id,) in self._db.execute(statement, (created,)).fetchall()]

    def save_delivery(self, event_id: str, attempts: int, due_at: float) -> None:
        """Note that an event is to be delivered: how often that was attempted, and when it is due (epoch seconds)."""
        self._db.execute("INSERT OR REPLACE INTO delivery VALUES (?, ?, ?)", (event_id, attempts, due_at))

    def delete_delivery(self, event_id: str) -> None:
        self._db.execute("DELETE FROM delivery WHERE event_id = ?", (event_id,))

    def deliveries(self) -> list[tuple[str, int, float]]:
        """Return the events to deliver, each with its attempts and when it is due."""
        return self._db.execute("SELECT event_id, attempts, due_at FROM delivery ORDER BY due_at").fetchall()

    def find_reply(self, key: str, since: int) -> tuple[bytes, Reply] | None:
        """Return the reply by idempotency key, with the fingerprint of the request that got it."""
        statement = "SELECT fingerprint, status, body, request_id FROM reply WHERE key = ? AND created > ?"
        row = self._db.execute(statement, (key, since)).fetchone()
        return None if row is None else (row[0], Reply(*row[1:]))

    def save_reply(self, key: str, fingerprint: bytes, created: int, reply: Reply) -> None:
        """Save a reply, unless the request had no idempotency key."""
        if key:
            row = (key, fingerprint, created, *reply)
            self._db.execute("INSERT OR REPLACE INTO reply VALUES (?, ?, ?, ?, ?, ?)", row)


def encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _found_by(saved: Json) -> dict[str, str]:
    """Return the fields by which lists are filtered and searches look for an object."""
    if saved["object"] == "payment_intent":
        return {f"metadata.{name}": value for name, value in saved["metadata"].items()}
    names = {"refund": ["payment_intent"], "event": ["type"]}.get(saved["object"], [])
    return {name: saved[name] for name in names}
