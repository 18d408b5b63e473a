"""The W3C trace context that travels with a request, through the outbox and over the bus.

Source: W3C Trace Context, §3.2 (traceparent).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from admitone.kernel import clock, ids

_PATTERN: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]")
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


@dataclass(frozen=True, slots=True)
class Span:
    """One piece of work of a trace: what was done, when, and on behalf of which other piece."""

    name: str
    traceparent: str
    parent: str | None
    began: datetime
    ended: datetime
    has_failed: bool
    facts: Mapping[str, str]


_recorder: Callable[[Span], None] | None = None


def record_with(recorder: Callable[[Span], None] | None) -> None:
    """Hand every span of this process over when it ends; None stops that. Without a recorder spans cost nothing."""
    global _recorder  # noqa: PLW0603 – tracing is on or off for the whole process
    _recorder = recorder


def current_traceparent() -> str | None:
    """Return the trace context of what is being done now, if anything is."""
    return _current.get()


@contextmanager
def following(
    traceparent: str | None, name: str | Callable[[], str] = "work", facts: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Continue the given trace, or begin one when there is none or it is malformed.

    `name` says what is done; a function is asked at the end, when a request's route is known.
    """
    if traceparent is not None and _PATTERN.fullmatch(traceparent):
        parent: str | None = traceparent
        here = f"00-{traceparent[3:35]}-{ids.new_token(8)}-{traceparent[-2:]}"
    else:
        parent, here = None, f"00-{ids.new_token(16)}-{ids.new_token(8)}-01"
    reset = _current.set(here)
    recorder = _recorder
    began = clock.now() if recorder is not None else None
    has_failed = True
    try:
        yield here
        has_failed = False
    finally:
        _current.reset(reset)
        if recorder is not None and began is not None:
            said = name if isinstance(name, str) else name()
            recorder(Span(said, here, parent, began, clock.now(), has_failed, facts or {}))
