"""The services of the marketplace. Adding one is a folder with a `service.py`, and its name in this list."""

import os
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Final

import msgspec

from admitone.auth.service import AUTHORITY
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings, refuse_unknown, variables, variables_of_service

__all__ = ["AUTHORITY", "SERVICES", "named", "read_settings", "setting_names"]

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


def setting_names() -> list[str]:
    """Return the variable of every setting, of the kernel and of the services."""
    structs: list[type[msgspec.Struct]] = [Settings, *(struct for each in SERVICES for struct in each.settings)]
    names = [variable.name for struct in structs for variable in variables(struct).values()]
    for each in SERVICES:
        names += variables_of_service(each.name, has_database=each.has_database)
    return names


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of a command; raises SettingsError, also for a variable that is no setting."""
    refuse_unknown(environment, setting_names())
    return Settings.from_environment(environment)
