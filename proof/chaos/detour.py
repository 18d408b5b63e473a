"""`admitone up --processes` as it is, but every service reaches its servers by a detour that the chaos run can break.

`python -m proof.chaos.detour` is told by `ADMITONE_CHAOS` which ports the servers and the detours have. Besides that,
each service's clock can be set apart (where libfaketime is installed), and the bus knows an operator.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import click
import msgspec
from msgspec.structs import replace

from admitone import registry
from admitone.auth.tokens import new_signing_key
from admitone.kernel.settings import Settings
from admitone.local import up as local
from admitone.local.installation import Installation
from admitone.local.nats import Nats, User
from admitone.local.postgres import Postgres
from admitone.local.program import Program
from admitone.local.server import LOOPBACK

TOLD: Final = "ADMITONE_CHAOS"
CLOCKS: Final = "clocks"
OPERATOR: Final = "operator"
PROVIDER: Final = "provider"
LIBFAKETIME: Final = tuple(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


class Ports(msgspec.Struct, frozen=True):
    """Where the servers listen, and where a service finds the detour to its database, the bus, the provider."""

    postgres: int
    nats: int
    provider: int
    databases: dict[str, int]
    buses: dict[str, int]
    to_provider: int


def at_port(url: str, port: int) -> str:
    """Return the same address at another port."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}{LOOPBACK}:{port}"))


def detoured(urls: Mapping[str, str], ports: Mapping[str, int]) -> dict[str, str]:
    """Return the addresses with those replaced to which there is a detour."""
    return {name: at_port(url, ports[name]) if name in ports else url for name, url in urls.items()}


class Detoured(Installation):
    """An installation whose servers have agreed ports, and whose services do not know those."""

    @property
    def ports(self) -> Ports:
        return msgspec.json.decode(os.environ[TOLD], type=Ports)

    @property
    def bus_users(self) -> list[User]:
        return [*super().bus_users, User(OPERATOR, self.folder.secret(f"bus_{OPERATOR}"), admin=True)]

    def postgres(self) -> Postgres:
        return Postgres(
            self.folder.path / "postgres", self.folder.secret("database_superuser"), port=self.ports.postgres
        )

    def nats(self) -> Nats:
        return Nats(self.folder.path / "nats", self.bus_users, port=self.ports.nats)

    def resolved(self, postgres: Postgres | None, nats: Nats | None, new_signing_key: Callable[[], str]) -> Settings:
        settings = super().resolved(postgres, nats, new_signing_key)
        return replace(
            settings,
            database_urls=detoured(settings.database_urls, self.ports.databases),
            nats_urls=detoured(settings.nats_urls, self.ports.buses),
        ).with_variables(ADMITONE_STRIPE_URL=f"http://{LOOPBACK}:{self.ports.to_provider}")

    def sandbox(self, settings: Settings) -> Program | None:
        return super().sandbox(settings.with_variables(ADMITONE_STRIPE_URL=f"http://{LOOPBACK}:{self.ports.provider}"))


class Clocked(Program):
    """A service whose clock shows what its file says, such as "+600s". Its stop watch is left alone."""

    def _environ(self) -> Mapping[str, str]:
        return {**super()._environ(), **clock_of(self.folder.parents[1], self.name)}


def clock_of(data: Path, service: str) -> dict[str, str]:
    """Return the variables that put a service's clock under our hands; none where that cannot be done."""
    if not LIBFAKETIME:
        return {}
    file = data / CLOCKS / service
    file.parent.mkdir(exist_ok=True)
    if not file.exists():
        file.write_text("+0")
    return {
        "LD_PRELOAD": str(LIBFAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "FAKETIME_DISABLE_SHM": "1",
    }


def main() -> None:
    """Do what `admitone up --processes` does, with the parts exchanged."""
    vars(local).update(Installation=Detoured, Program=Clocked)
    local.up(
        Settings.from_environment(),
        registry.SERVICES,
        authority=registry.AUTHORITY,
        new_signing_key=new_signing_key,
        processes=True,
        say=lambda text: click.echo(text, nl=False),
    )


if __name__ == "__main__":
    main()
