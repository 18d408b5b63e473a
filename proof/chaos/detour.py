"""`admitone up --processes` whose services reach their servers through links that a chaos run can break.

`python -m proof.chaos.detour up --processes` finds the ports of servers and links in `CHAOS_PORTS`. Each service's
clock can be set wrong, and the bus has an operator who may do everything.
"""

import os
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec.structs import replace

from admitone.__main__ import main
from admitone.kernel.settings import Settings
from admitone.local import up as local
from admitone.local.installation import Installation
from admitone.local.nats import Nats, NatsUser
from admitone.local.postgres import Postgres
from admitone.local.program import Program
from admitone.local.server import LOOPBACK
from proof.chaos.clocks import clock_environment

PORTS: Final = "CHAOS_PORTS"
OPERATOR: Final = "operator"


class Ports(msgspec.Struct, frozen=True):
    """The ports of `postgres`, `nats` and `provider`, and of each link to one of them, such as `tickets/nats`."""

    servers: dict[str, int]
    links: dict[str, int]


def at_port(url: str, port: int | None) -> str:
    """Return the same address at another port."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}{LOOPBACK}:{port}"))


class DetouredInstallation(Installation):
    """Its servers have agreed ports, which its services do not know."""

    @property
    def ports(self) -> Ports:
        return msgspec.json.decode(os.environ[PORTS], type=Ports)

    @property
    def nats_users(self) -> list[NatsUser]:
        return [*super().nats_users, NatsUser(OPERATOR, self.folder.secret(f"bus_{OPERATOR}"), is_admin=True)]

    def postgres(self) -> Postgres:
        password = self.folder.secret("database_superuser")
        return Postgres(self.folder.path / "postgres", password, port=self.ports.servers["postgres"])

    def nats(self) -> Nats:
        return Nats(self.folder.path / "nats", self.nats_users, port=self.ports.servers["nats"])

    def resolved(self, postgres: Postgres | None, nats: Nats | None, new_signing_key: Callable[[], str]) -> Settings:
        settings = super().resolved(postgres, nats, new_signing_key)
        return replace(
            settings,
            database_urls=self._through_links(settings.database_urls, "postgres"),
            nats_urls=self._through_links(settings.nats_urls, "nats"),
        ).with_variables(ADMITONE_STRIPE_URL=f"http://{LOOPBACK}:{self.ports.links['payments/provider']}")

    def _through_links(self, urls: Mapping[str, str], server: str) -> dict[str, str]:
        links = self.ports.links
        return {name: at_port(url, links.get(f"{name}/{server}", urlsplit(url).port)) for name, url in urls.items()}

    def sandbox(self, settings: Settings) -> Program | None:
        url = f"http://{LOOPBACK}:{self.ports.servers['provider']}"
        return super().sandbox(settings.with_variables(ADMITONE_STRIPE_URL=url))


class ClockedProgram(Program):
    """A service whose clock can be set wrong."""

    def _environment(self) -> Mapping[str, str]:
        return {**super()._environment(), **clock_environment(self.folder.parents[1], self.name)}


if __name__ == "__main__":
    vars(local).update(Installation=DetouredInstallation, Program=ClockedProgram)
    main()
