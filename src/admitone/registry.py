"""The services of the marketplace. Adding one is a folder with a `service.py`, and its name in this list."""

from collections.abc import Iterable
from importlib import import_module
from typing import Final

from admitone.auth.service import AUTHORITY
from admitone.kernel.service import Service

__all__ = ["AUTHORITY", "SERVICES", "named"]

_NAMES: Final = (
    "auth",
    "tickets",
    "orders",
    "expiration",
    "payments",
    "web",
)

SERVICES: Final[tuple[Service, ...]] = tuple(import_module(f"admitone.{name}.service").SERVICE for name in _NAMES)


def named(names: Iterable[str]) -> list[Service]:
    """Return the services of these names, or all services if there are none; raises KeyError for an unknown name."""
    by_name = {each.name: each for each in SERVICES}
    return [by_name[name] for name in names] or list(SERVICES)
