"""Passwords: hashed with argon2id, in a few threads of their own and with a bounded line before them.

A hash takes some 40 ms of processor time on purpose, so it must neither hold up the event loop nor pile up.
"""

import asyncio
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, Self, TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import VerifyMismatchError

from admitone.auth.model import TooBusyToHash
from admitone.kernel import ids

WORKERS: Final = 2
QUEUE: Final = 32

T = TypeVar("T")

# Source: OWASP Password Storage Cheat Sheet, "Argon2id", the minimum configuration of 19 MiB.
_HASHER: Final = PasswordHasher(memory_cost=19456, time_cost=2, parallelism=1, hash_len=32, salt_len=16, type=Type.ID)


class Passwords:
    """Hashes and verifies passwords for whoever has a place in the line."""

    def __init__(self, threads: ThreadPoolExecutor, nobodys_hash: str) -> None:
        self._threads = threads
        self._nobodys_hash = nobodys_hash
        self._in_line = 0

    @classmethod
    async def prepare(cls, threads: ThreadPoolExecutor) -> Self:
        """Hash what nobody knows, to have something to compare with where there is no account."""
        passwords = cls(threads, "")
        passwords._nobodys_hash = await passwords.hash(ids.new_token(32))
        return passwords

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Take a place in the line for as long as the block lasts; raises TooBusyToHash when the line is full.

        Asked for before anything else is done, so that who is turned away here has not been counted as guessing.
        """
        if self._in_line >= WORKERS + QUEUE:
            raise TooBusyToHash
        self._in_line += 1
        try:
            yield
        finally:
            self._in_line -= 1

    async def hash(self, password: str) -> str:
        return await self._run(lambda: _HASHER.hash(_octets(password)))

    async def is_right(self, password: str, password_hash: str | None) -> bool:
        """Compare; without a hash the answer is no, after the same work."""
        against = password_hash or self._nobodys_hash
        return await self._run(lambda: _matches(against, password)) and password_hash is not None

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def is_outdated(password_hash: str) -> bool:
    """Whether a hash was made with other parameters than today's."""
    return _HASHER.check_needs_rehash(password_hash)


def _matches(password_hash: str, password: str) -> bool:
    try:
        return _HASHER.verify(password_hash, _octets(password))
    except VerifyMismatchError:
        return False


def _octets(password: str) -> bytes:
    # Two keyboards may spell the same character differently. Source: NIST SP 800-63B, §3.1.1.2.
    return unicodedata.normalize("NFC", password).encode()
