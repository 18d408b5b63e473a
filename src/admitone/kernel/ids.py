"""The one source of identifiers and of randomness, so that a simulation can replace it."""

import secrets
from collections.abc import Callable
from uuid import UUID

from uuid_utils.compat import uuid7

_uuid_source: Callable[[], UUID] = uuid7
_token_source: Callable[[int], str] = secrets.token_hex


def new_id() -> UUID:
    """Return a fresh UUIDv7 (RFC 9562): unique, and ordered by the millisecond it was made in."""
    return _uuid_source()


def new_token(size_bytes: int) -> str:
    """Return `size_bytes` unpredictable bytes as lower-case hexadecimal text."""
    return _token_source(size_bytes)


def use_sources(uuids: Callable[[], UUID], tokens: Callable[[int], str]) -> None:
    """Replace both sources for this process; only a simulation does this."""
    global _uuid_source, _token_source
    _uuid_source, _token_source = uuids, tokens
