"""Commits are found in what a PostgreSQL client sends."""

import struct

from proof.chaos.commits import CommitFinder


def test_a_commit_is_found_however_the_stream_is_divided() -> None:
    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!I", len(body) + 4) + body

    startup = message(b"", struct.pack("!I", 196_608) + b"user\0orders\0\0")
    change = message(b"P", b"s1\0INSERT INTO t\0\0\0") + message(b"B", b"\0s1\0") + message(b"E", b"\0\0\0\0\0")
    stream = startup + message(b"Q", b"BEGIN;\0") + change + message(b"S", b"") + message(b"Q", b"COMMIT;\0")
    whole = CommitFinder().find(stream)
    assert whole == (len(stream) - 13, len(stream))
    bytewise = CommitFinder()
    found = [bytewise.find(stream[at : at + 1]) for at in range(len(stream))]
    assert [at for at, each in enumerate(found) if each is not None] == [len(stream) - 1]
    assert found[-1] == (0, 1)
