"""Finds in what a PostgreSQL client sends the message that commits a change, so that a link can break exactly there."""

import struct
from typing import Final

_STARTUP: Final = 196_608  # protocol version 3.0; whatever else comes before it asks for encryption
_CHANGES: Final = (b"INSERT", b"UPDATE", b"DELETE")
_IDLE: Final = b"Z\x00\x00\x00\x05I"
"""What the server ends its answer with when no transaction is open any more ("ReadyForQuery", "idle")."""


def is_answered(received: bytes) -> bool:
    """Whether the server's words, as far as they came, end with an answer outside of any transaction."""
    return received.endswith(_IDLE)


def _changes(text: bytes) -> bool:
    return any(word in text.upper() for word in _CHANGES)


class Commits:
    """Reads one client's side of a connection.

    A change is committed by the statement COMMIT, or outside of a transaction by the "Sync" after a changing statement.
    Source: PostgreSQL documentation, "Message Formats".
    """

    def __init__(self) -> None:
        self._unread = b""
        self._has_begun = False
        self._in_transaction = False
        self._changing: set[bytes] = set()
        self._is_change = False

    def find(self, sent: bytes) -> tuple[int, int] | None:
        """Return where in `sent` the first message that commits begins and ends; a beginning may lie before it."""
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
        """Return kind, body and end of the message at `at`, if all of it has come."""
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
            case b"P":  # a statement is prepared: its name, its text
                name, text = body.split(b"\0")[:2]
                self._changing.discard(name)
                if _changes(text):
                    self._changing.add(name)
            case b"B":  # a prepared statement is about to run: the portal's name, the statement's
                self._is_change |= body.split(b"\0")[1] in self._changing
            case b"S":
                return not self._in_transaction and self._ended()
            case b"Q":
                return self._is_committed_by(body.upper())
        return False

    def _is_committed_by(self, text: bytes) -> bool:
        if text.startswith(b"BEGIN"):
            self._in_transaction = True
        elif text.startswith((b"COMMIT", b"ROLLBACK;")):
            self._in_transaction = False
            return self._ended() and text.startswith(b"COMMIT")
        elif _changes(text):
            self._is_change = True
            return not self._in_transaction and self._ended()
        return False

    def _ended(self) -> bool:
        was_change, self._is_change = self._is_change, False
        return was_change
