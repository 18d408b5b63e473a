"""What auth runs on besides its database: the keys that sign sessions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from admitone.auth.tokens import SigningKeys
from admitone.kernel.service import Running


@dataclass(frozen=True)
class Own:
    keys: SigningKeys


@asynccontextmanager
async def own(running: Running) -> AsyncIterator[Own]:
    """Read the signing keys; raises SettingsError without one, so the service does not start."""
    yield Own(SigningKeys.from_pem(running.settings.signing_key))
