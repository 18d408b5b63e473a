"""Every service of the marketplace, by name: the one place that knows them all."""

import importlib
import logging
from collections.abc import Iterable, Iterator
from typing import Final

from admitone.kernel.service import Service
from admitone.kernel.settings import SERVICES as NAMES


def _found() -> Iterator[Service]:
    for name in NAMES:
        try:
            yield importlib.import_module(f"admitone.{name}.service").SERVICE
        except ImportError as error:
            logging.getLogger(__name__).warning("%s is not there yet: %s", name, error)


SERVICES: Final[tuple[Service, ...]] = tuple(_found())


def named(names: Iterable[str]) -> list[Service]:
    """Return these services, or all of them when none is named; raises KeyError for a name that is none."""
    by_name = {each.name: each for each in SERVICES}
    return [by_name[name] for name in names] or list(SERVICES)
