"""Settings of auth and what it opens at start: signing keys and the password hashing threads."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import msgspec

from admitone.auth.passwords import THREADS, Passwords
from admitone.auth.tokens import SigningKeys
from admitone.kernel.running import RunningService
from admitone.kernel.settings import Variable


class AuthSettings(msgspec.Struct, frozen=True):
    """`signing_key` is one or more Ed25519 private keys in PEM: the first signs, all are published."""

    session_seconds: Annotated[int, Variable("ADMITONE_SESSION_SECONDS", 60, 7 * 24 * 3600)] = 12 * 3600
    signing_key: Annotated[str, Variable("ADMITONE_SIGNING_KEY", is_secret=True)] = ""


@dataclass(frozen=True)
class Resources:
    session_seconds: int
    keys: SigningKeys
    passwords: Passwords


@asynccontextmanager
async def open_resources(service: RunningService[None]) -> AsyncIterator[Resources]:
    """Open the resources; raises SettingsError without a valid signing key, so that the service does not start."""
    settings = service.settings.read(AuthSettings)
    keys = SigningKeys.from_pem(settings.signing_key)
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="hash")
    try:
        yield Resources(settings.session_seconds, keys, await Passwords.start(threads))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
