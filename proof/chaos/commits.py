"""Finds in a PostgreSQL client's messages the one that commits a change, so that a link can break exactly there."""

import struct
from typing import Final

_STARTUP: Final = 196_608  # protocol version 3.0; any other first message requests encryption
_CHANGES: Final = (b"INSERT", b"UPDATE", b"DELETE")
_IDLE: Final = b"Z\x00\x00\x00\x05I"
"""How the server ends a response outside of a transaction ("ReadyForQuery", "idle")."""


def is_answered(received: bytes) -> bool:
    """Whether what the server sent so far ends with a response outside of any transaction."""
    return received.endswith(_IDLE)


def _changes(text: bytes) -> bool:
    return any(word in text.upper() for word in _CHANGES)


class CommitFinder:
    """Reads one client's side of a connection.

    A change is committed by the statement COMMIT, or outside of a transaction by the "Sync" after a changing statement.
    Source: PostgreSQL documentation, "Message Formats".
    """

    def __init__(self) -> None:
        self._unread = b""
        self._has_begun = False
        self._in_transaction = False
        self._changing: set[bytes] = set()
        self._has_changed = False

    def find(self, sent: bytes) -> tuple[int, int] | None:
        """Return where in `sent` the first committing message begins and ends; it may have begun before."""
        before = len(self._unread)
        self._unread += sent
        at, found = 0, None
        while (message := self._message(at)) is not None:
            kind, body, end = message
            if self._commits(kind, body) and found is None:
                found = (max(at - before, 0), end - before)
            at = end
        self._unread = self._unread[at:]
        return found

    def _message(self, at: int) -> tuple[bytes, bytes, int] | None:
        """Return kind, body and end of the message at `at`, if it is complete."""
        head = 1 if self._has_begun else 0
        if len(self._unread) < at + head + 4:
            return None
        (length,) = struct.unpack_from("!I", self._unread, at + head)
        end = at + head + length
        if len(self._unread) < end:
            return None
        return self._unread[at : at + head], self._unread[at + head + 4 : end], end

    def _commits(self, kind: bytes, body: bytes) -> bool:
        match kind:
            case b"":
                self._has_begun = body[:4] == struct.pack("!I", _STARTUP)
            case b"P":  # prepares a statement: its name, its text
                name, text = body.split(b"\0")[:2]
                self._changing.discard(name)
                if _changes(text):
                    self._changing.add(name)
            case b"B":  # binds a prepared statement: the portal's name, the statement's
                self._has_changed |= body.split(b"\0")[1] in self._changing
            case b"S":
                return not self._in_transaction and self._end()
            case b"Q":
                return self._is_committed_by(body.upper())
        return False

    def _is_committed_by(self, text: bytes) -> bool:
        if text.startswith(b"BEGIN"):
            self._in_transaction = True
        elif text.startswith((b"COMMIT", b"ROLLBACK;")):
            self._in_transaction = False
            return self._end() and text.startswith(b"COMMIT")
        elif _changes(text):
            self._has_changed = True
            return not self._in_transaction and self._end()
        return False

    def _end(self) -> bool:
        had_changed, self._has_changed = self._has_changed, False
        return had_changed
