"""Logs: one line of JSON per fact, with the ids that lead from one fact to the next."""

import logging
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from admitone.kernel import clock
from admitone.kernel.tracing import current_traceparent

_KNOWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object; whatever was passed as `extra` becomes fields of its own."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": clock.now().isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if traceparent := current_traceparent():
            line["traceparent"] = traceparent
        line.update({key: value for key, value in vars(record).items() if key not in _KNOWN})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure(level: str = "INFO", file: Path | None = None) -> None:
    """Send every log line of this process to standard error, or to a file, as JSON."""
    lines = logging.StreamHandler(sys.stderr) if file is None else logging.FileHandler(file)
    lines.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[lines], force=True)
    for noisy in ("httpx", "httpcore", "stripe", "nats"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
