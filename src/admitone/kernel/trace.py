"""The W3C trace context that travels with a request, through the outbox and over the bus.

Source: W3C Trace Context, §3.2 (traceparent).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from admitone.kernel import ids

_PATTERN: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]")
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


def current_traceparent() -> str | None:
    """Return the trace context of what is being done now, if anything is."""
    return _current.get()


@contextmanager
def following(traceparent: str | None) -> Iterator[str]:
    """Continue the given trace, or begin one when there is none or it is malformed."""
    if traceparent is not None and _PATTERN.fullmatch(traceparent):
        here = f"00-{traceparent[3:35]}-{ids.new_token(8)}-{traceparent[-2:]}"
    else:
        here = f"00-{ids.new_token(16)}-{ids.new_token(8)}-01"
    reset = _current.set(here)
    try:
        yield here
    finally:
        _current.reset(reset)
