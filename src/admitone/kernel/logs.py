"""Logs: one JSON object per line, with the ids that connect the lines of one request."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from admitone.kernel import clock
from admitone.kernel.tracing import current_traceparent

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object; what is passed as `extra` becomes fields of the object."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": clock.now().isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if traceparent := current_traceparent():
            line["traceparent"] = traceparent
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info:
            for error in _related(record.exc_info[1]):
                if isinstance(error, asyncpg.PostgresError):
                    # It quotes rows, such as e-mail addresses. The message names the constraint.
                    error.detail = None
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def _related(error: BaseException | None) -> Iterator[BaseException]:
    """Return an error and those that its traceback shows: its causes, and the members of groups."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]
            waiting += each.exceptions if isinstance(each, BaseExceptionGroup) else ()


def configure(level: str = "INFO", file: Path | None = None) -> None:
    """Write this process's log to standard error, or to a file; libraries log only warnings and errors."""
    lines = logging.StreamHandler(sys.stderr) if file is None else logging.FileHandler(file)
    lines.setFormatter(JsonLines())
    lines.setLevel(level)
    logging.basicConfig(level=logging.WARNING, handlers=[lines], force=True)
    logging.getLogger("admitone").setLevel(level)
