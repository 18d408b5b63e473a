"""The only source of ids and of randomness, so that the simulation can replace it."""

import secrets
from collections.abc import Callable
from uuid import UUID

from uuid_utils.compat import uuid7

_uuid_source: Callable[[], UUID] = uuid7
_token_source: Callable[[int], str] = secrets.token_hex


def new_id() -> UUID:
    """Return a new UUIDv7 (RFC 9562), which sorts by the millisecond of its creation."""
    return _uuid_source()


def new_token(size_bytes: int) -> str:
    """Return `size_bytes` unpredictable bytes as lower-case hexadecimal text."""
    return _token_source(size_bytes)


def use_sources(uuids: Callable[[], UUID], tokens: Callable[[int], str]) -> None:
    """Replace both sources of this process; only the simulation does this."""
    global _uuid_source, _token_source
    _uuid_source, _token_source = uuids, tokens
