"""Settings: structs read from environment variables; each variable may be given as a file with the suffix `_FILE`.

The kernel's own settings are `Settings`. A service declares its settings as structs of its own, whose fields name
their variable with `Variable`, and reads them with `Settings.read`.
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_type_hints
from urllib.parse import urlsplit

import msgspec

S = TypeVar("S", bound=msgspec.Struct)


class SettingsError(Exception):
    """A setting is missing or not valid; the message names the variable"""


_BOOLEANS: Final = {"1": True, "true": True, "yes": True, "on": True} | dict.fromkeys(
    ("0", "false", "no", "off"), False
)
# Every variable of ours begins with it, except those that other programs use under the same name.
_PREFIX: Final = "ADMITONE_"


@dataclass(frozen=True)
class Variable:
    """The environment variable of a setting, and the values it may have.

    `is_secret` variables go only to the processes of the services that declare them.
    """

    name: str
    minimum: int = 0
    maximum: int = 0
    choices: frozenset[str] = frozenset()
    is_secret: bool = False

    def parse(self, text: str, field_type: type) -> Any:
        """Return the value of a field of this type; raises SettingsError."""
        if field_type is bool:
            if (value := _BOOLEANS.get(text.lower())) is None:
                raise SettingsError(f"{self.name} must be 1 or 0 (or true, false, yes, no, on, off)")
            return value
        if field_type is str:
            if self.choices and text not in self.choices:
                raise SettingsError(f"{self.name} must be one of {', '.join(sorted(self.choices))}")
            return text
        try:
            number = int(text)
        except ValueError:
            raise SettingsError(f"{self.name} must be a whole number") from None
        if not self.minimum <= number <= self.maximum:
            raise SettingsError(f"{self.name} must be between {self.minimum} and {self.maximum}")
        return number


def variables(struct: type[msgspec.Struct]) -> dict[str, Variable]:
    """Return the variable of each field that has one, by the field's name."""
    hints = get_type_hints(struct, include_extras=True)
    found = {}
    for field in struct.__struct_fields__:
        for metadata in getattr(hints[field], "__metadata__", ()):
            if isinstance(metadata, Variable):
                found[field] = metadata
    return found


def value_of(environment: Mapping[str, str], name: str) -> str:
    """Return a variable's value, from the file that `<name>_FILE` names if it is set; empty if neither is."""
    if path := environment.get(f"{name}_FILE"):
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise SettingsError(f"{name}_FILE cannot be read: {error.strerror}") from None
    return environment.get(name) or ""


def read(struct: type[S], environment: Mapping[str, str]) -> S:
    """Return the struct with the values of its variables; unset ones keep the default. Raises SettingsError."""
    types = get_type_hints(struct)
    values = {}
    for field, variable in variables(struct).items():
        if text := value_of(environment, variable.name):
            values[field] = variable.parse(text, types[field])
    return struct(**values)


def environment_of(settings: msgspec.Struct) -> dict[str, str]:
    """Return the variables from which `read` makes an equal struct."""
    values = {variable.name: getattr(settings, field) for field, variable in variables(type(settings)).items()}
    return {name: str(int(value)) if isinstance(value, bool) else str(value) for name, value in values.items()}


def url_of(host: str, port: int | None, scheme: str = "http") -> str:
    """Return the URL of a host name or address; the colons of an IPv6 address need brackets."""
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" + ("" if port is None else f":{port}")


# What listens at every address of the machine is reached at this one.
_LOOPBACK_OF: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 – the operator's choice


def refuse_unknown(environment: Iterable[str], known: Iterable[str]) -> None:
    """Raise SettingsError if a variable is named like one of ours and is none, such as a misspelt one.

    Without this a setting that the operator believes in would have no effect.
    """
    names = {name.removeprefix(_PREFIX): name for name in known}
    for given in sorted(environment):
        name = given.removesuffix("_FILE")
        if not given.startswith(_PREFIX) or name in names.values():
            continue
        nearest = difflib.get_close_matches(name.removeprefix(_PREFIX), names, n=1)
        advice = f"did you mean {names[nearest[0]]}?" if nearest else "unset it; README.md lists the settings."
        raise SettingsError(f"{given} is not a setting: {advice}")


def variables_of_service(service: str, *, has_database: bool) -> list[str]:
    """Return the variables that exist once for each service."""
    suffixes = _OF_EACH_SERVICE + (_OF_EACH_DATABASE if has_database else ())
    return [f"{_PREFIX}{service.upper()}_{suffix}" for suffix in suffixes]


_BUS_SCHEMES: Final = frozenset({"nats", "tls", "ws", "wss"})
_LEVELS: Final = frozenset({"DEBUG", "INFO", "WARNING", "ERROR"})
_OF_EACH_SERVICE: Final = ("NATS_URL", "URL")
_OF_EACH_DATABASE: Final = ("DATABASE_URL", "MIGRATOR_URL")
_PER_SERVICE: Final = re.compile(rf"{_PREFIX}([A-Z]+)_({'|'.join((*_OF_EACH_DATABASE, *_OF_EACH_SERVICE))})(_FILE)?")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of every process; the services' own settings are read from `environment`."""

    data: Annotated[str, Variable("ADMITONE_DATA")] = ".admitone"
    host: Annotated[str, Variable("ADMITONE_HOST")] = "127.0.0.1"
    port: Annotated[int, Variable("ADMITONE_PORT", 1, 65535)] = 8000
    origin: Annotated[str, Variable("ADMITONE_ORIGIN")] = ""
    nats_replicas: Annotated[int, Variable("ADMITONE_NATS_REPLICAS", 1, 5)] = 1
    nats_stream_bytes: Annotated[int, Variable("ADMITONE_NATS_STREAM_BYTES", 0, 2**50)] = 0
    database_connections: Annotated[int, Variable("ADMITONE_DATABASE_CONNECTIONS", 2, 200)] = 10
    log_level: Annotated[str, Variable("ADMITONE_LOG_LEVEL", choices=_LEVELS)] = "INFO"
    metrics_port: Annotated[int, Variable("ADMITONE_METRICS_PORT", 0, 65535)] = 0
    otlp_endpoint: Annotated[str, Variable("ADMITONE_OTLP_ENDPOINT")] = ""
    trust_proxy: Annotated[bool, Variable("ADMITONE_TRUST_PROXY")] = False
    database_urls: dict[str, str] = {}
    migrator_urls: dict[str, str] = {}
    nats_urls: dict[str, str] = {}
    service_urls: dict[str, str] = {}
    environment: Mapping[str, str] = {}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the environment; raises SettingsError."""
        given = dict(os.environ if environment is None else environment)
        if level := given.get("ADMITONE_LOG_LEVEL"):
            given["ADMITONE_LOG_LEVEL"] = level.upper()
        given.setdefault("ADMITONE_OTLP_ENDPOINT", given.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""))
        settings = read(cls, given)
        origin = settings.origin.rstrip("/").lower()  # as browsers send it
        if origin and not _is_origin(origin):
            raise SettingsError("ADMITONE_ORIGIN must be a scheme and a host, such as https://www.example")
        return msgspec.structs.replace(
            settings,
            origin=origin,
            database_urls=_per_service(given, "DATABASE_URL"),
            migrator_urls=_per_service(given, "MIGRATOR_URL"),
            nats_urls=_per_service(given, "NATS_URL"),
            service_urls=_per_service(given, "URL"),
            environment=given,
        )

    def read(self, struct: type[S]) -> S:
        """Return a service's own settings; raises SettingsError."""
        return read(struct, self.environment)

    def with_variables(self, **values: str) -> "Settings":
        """Return the settings with other values of the services' variables."""
        return msgspec.structs.replace(self, environment={**self.environment, **values})

    @property
    def public_origin(self) -> str:
        """The origin browsers see, such as https://www.example."""
        return self.origin or url_of(self.host, self.port)

    @property
    def local_url(self) -> str:
        """The URL of the public port for programs on this machine."""
        return url_of(_LOOPBACK_OF.get(self.host, self.host), self.port)

    @property
    def is_https(self) -> bool:
        return self.public_origin.startswith("https://")

    def database_url(self, service: str) -> str:
        """Return the URL of a service's database; raises SettingsError if it is not set."""
        if (url := self.database_urls.get(service)) is None:
            raise SettingsError(f"ADMITONE_{service.upper()}_DATABASE_URL is not set")
        return url

    def nats_url(self, service: str) -> str:
        """Return the URL of the bus for a service, by default NATS_URL; raises SettingsError if it is not valid."""
        own = f"ADMITONE_{service.upper()}_NATS_URL"
        for name, url in ((own, self.nats_urls.get(service)), ("NATS_URL", value_of(self.environment, "NATS_URL"))):
            if url and not _has_scheme(url, _BUS_SCHEMES):
                raise SettingsError(f"{name} must be a URL such as nats://user:password@host:4222")
            if url:
                return url
        raise SettingsError(f"{own} is not set")

    def service_url(self, service: str) -> str:
        """Return the URL of another service's API; the public address routes to all of them."""
        return self.service_urls.get(service) or self.local_url


def _is_origin(text: str) -> bool:
    """Return whether a URL names nothing but a host, and a port."""
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and text == url_of(parts.hostname or "", parts.port, parts.scheme)
    except ValueError:
        return False


def _has_scheme(url: str, schemes: frozenset[str]) -> bool:
    """Return whether a URL has one of these schemes, or none at all as in `host:port`, and a port that is a number."""
    scheme, separator, rest = url.rpartition("://")
    try:
        return (not separator or scheme in schemes) and urlsplit(f"//{rest}").port != 0
    except ValueError:
        return False


def _per_service(environment: Mapping[str, str], suffix: str) -> dict[str, str]:
    """Return the variables ADMITONE_<SERVICE>_<suffix> by service."""
    found = {}
    for name in environment:
        match = _PER_SERVICE.fullmatch(name)
        if match and match[2] == suffix and (value := value_of(environment, name.removesuffix("_FILE"))):
            found[match[1].lower()] = value
    return found
