"""What auth runs on besides its database: the keys that sign sessions and the threads that hash passwords."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from admitone.auth.passwords import WORKERS, Passwords
from admitone.auth.tokens import SigningKeys
from admitone.kernel.service import Running


@dataclass(frozen=True)
class Own:
    keys: SigningKeys
    passwords: Passwords


@asynccontextmanager
async def own(running: Running) -> AsyncIterator[Own]:
    """Open both; raises SettingsError without a signing key, so that the service does not start."""
    keys = SigningKeys.from_pem(running.settings.signing_key)
    threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="hash")
    try:
        yield Own(keys, await Passwords.prepare(threads))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
