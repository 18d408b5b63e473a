"""Password hashing with argon2id, in a small thread pool behind a bounded queue.

A hash deliberately takes about 40 ms of processor time, so it must not block the event loop, and the queue is
bounded.
"""

import asyncio
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, Self, TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import VerifyMismatchError

from admitone.auth.model import LOST_HASH, TooBusyToHash
from admitone.kernel import ids

THREADS: Final = 2
QUEUED_MAX: Final = 32

T = TypeVar("T")

# Source: OWASP Password Storage Cheat Sheet, "Argon2id", the minimum configuration of 19 MiB.
_HASHER: Final = PasswordHasher(memory_cost=19456, time_cost=2, parallelism=1, hash_len=32, salt_len=16, type=Type.ID)


class Passwords:
    """Hashes and verifies passwords for requests that hold a slot."""

    def __init__(self, threads: ThreadPoolExecutor, decoy_hash: str) -> None:
        self._threads = threads
        self._decoy_hash = decoy_hash
        self._slots_taken = 0

    @classmethod
    async def start(cls, threads: ThreadPoolExecutor) -> Self:
        """Hash a random password, to verify against where there is no account."""
        passwords = cls(threads, "")
        passwords._decoy_hash = await passwords.hash(ids.new_token(32))
        return passwords

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot for the duration of the block; raises TooBusyToHash if none is free.

        Taken before the attempt is counted, so that a refusal here does not count as a failed attempt.
        """
        if self._slots_taken >= THREADS + QUEUED_MAX:
            raise TooBusyToHash
        self._slots_taken += 1
        try:
            yield
        finally:
            self._slots_taken -= 1

    async def hash(self, password: str) -> str:
        return await self._run(lambda: _HASHER.hash(_octets(password)))

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Return whether the password matches the hash; without a hash it takes as long and returns False."""
        known_hash = None if password_hash == LOST_HASH else password_hash
        expected = known_hash or self._decoy_hash
        return await self._run(lambda: _matches(expected, password)) and known_hash is not None

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def is_outdated(password_hash: str) -> bool:
    """Return whether a hash was made with other parameters than the current ones."""
    return _HASHER.check_needs_rehash(password_hash)


def _matches(password_hash: str, password: str) -> bool:
    try:
        return _HASHER.verify(password_hash, _octets(password))
    except VerifyMismatchError:
        return False


def _octets(password: str) -> bytes:
    # Keyboards differ in how they compose the same character. Source: NIST SP 800-63B, §3.1.1.2.
    return unicodedata.normalize("NFC", password).encode()
