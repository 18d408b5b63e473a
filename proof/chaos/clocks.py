"""Clocks that can be set wrong, one for each service; Debian's package `faketime` brings the library it needs."""

from pathlib import Path
from typing import Final

LIBRARY: Final = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


def clock_environment(data: Path, service: str) -> dict[str, str]:
    """Return the variables that let `set_clock` change a service's clock; its monotonic clock stays true."""
    if LIBRARY is None:
        return {}
    set_clock(data, service, 0)
    return {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(_file(data, service)),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "FAKETIME_DISABLE_SHM": "1",
    }


def set_clock(data: Path, service: str, seconds: int) -> None:
    """Set a service's clock wrong by so many seconds from now on; does nothing without the library."""
    if LIBRARY is None:
        return
    file = _file(data, service)
    file.parent.mkdir(exist_ok=True)
    draft = file.with_suffix(".new")
    draft.write_text(f"{seconds:+d}")
    draft.replace(file)


def _file(data: Path, service: str) -> Path:
    return data / "clocks" / service
