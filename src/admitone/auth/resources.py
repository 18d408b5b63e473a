"""What auth is configured with and opens at start: signing keys, and threads that hash passwords."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import msgspec

from admitone.auth.passwords import WORKERS, Passwords
from admitone.auth.tokens import SigningKeys
from admitone.kernel.running import RunningService
from admitone.kernel.settings import Variable


class AuthSettings(msgspec.Struct, frozen=True):
    """`signing_key` is one Ed25519 private key in PEM, or several: the first signs, all verify."""

    session_seconds: Annotated[int, Variable("ADMITONE_SESSION_SECONDS", 60, 7 * 24 * 3600)] = 12 * 3600
    signing_key: Annotated[str, Variable("ADMITONE_SIGNING_KEY", is_secret=True)] = ""


@dataclass(frozen=True)
class Resources:
    session_seconds: int
    keys: SigningKeys
    passwords: Passwords


@asynccontextmanager
async def open_resources(service: RunningService[None]) -> AsyncIterator[Resources]:
    """Raises SettingsError without a signing key, so that the service does not start."""
    settings = service.settings.read(AuthSettings)
    keys = SigningKeys.from_pem(settings.signing_key)
    threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="hash")
    try:
        yield Resources(settings.session_seconds, keys, await Passwords.prepare(threads))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
