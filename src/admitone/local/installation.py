"""What the marketplace of a data folder runs on: its servers, their accounts, and the settings that lead to them."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from admitone.kernel.service import Service
from admitone.kernel.settings import Settings, value_of
from admitone.local.folder import DataFolder
from admitone.local.nats import Nats, NatsUser
from admitone.local.postgres import Postgres
from admitone.local.program import Program
from admitone.local.provision import DatabaseAccount
from admitone.local.server import LOOPBACK, command_line, free_port

SIGNING_KEY: Final = "ADMITONE_SIGNING_KEY"
_RUNNING_FILE: Final = "running.json"


@dataclass(frozen=True)
class Installation:
    """One data folder and the operator's settings. Servers that the settings do not name are started here."""

    folder: DataFolder
    settings: Settings
    services: Sequence[Service]

    @property
    def uses_sandbox(self) -> bool:
        """Payments go to the sandbox unless a key of Stripe is set."""
        return not value_of(self.settings.environment, "STRIPE_SECRET_KEY")

    @property
    def databases(self) -> list[DatabaseAccount]:
        """The databases that the settings do not name."""
        names = [each.name for each in self.services if each.has_database]
        return [
            DatabaseAccount(name, self.folder.secret(f"database_{name}"), self.folder.secret(f"migrator_{name}"))
            for name in names
            if name not in self.settings.database_urls
        ]

    @property
    def nats_users(self) -> list[NatsUser]:
        """The bus accounts of the services for which the settings name no bus."""
        if value_of(self.settings.environment, "NATS_URL"):
            return []
        return [
            NatsUser.of(each, self.folder.secret(f"bus_{each.name}"))
            for each in self.services
            if each.name not in self.settings.nats_urls
        ]

    def postgres(self) -> Postgres | None:
        if not self.databases:
            return None
        return Postgres(self.folder.path / "postgres", self.folder.secret("database_superuser"))

    def nats(self) -> Nats | None:
        users = self.nats_users
        return Nats(self.folder.path / "nats", users) if users else None

    def resolved(self, postgres: Postgres | None, nats: Nats | None, new_signing_key: Callable[[], str]) -> Settings:
        """Return the settings completed with the servers that are started here and with generated secrets."""
        settings, secret = self.settings, self.folder.secret
        server_url = postgres.url() if postgres else ""
        bus_urls = {user: nats.url(user) for user in nats.users} if nats else {}
        filled = msgspec.structs.replace(
            settings,
            data=str(self.folder.path),
            database_urls={each.service: each.url(server_url) for each in self.databases} | settings.database_urls,
            migrator_urls={each.service: each.migrator_url(server_url) for each in self.databases}
            | settings.migrator_urls,
            nats_urls=bus_urls | settings.nats_urls,
        )
        if not value_of(settings.environment, SIGNING_KEY):
            filled = filled.with_variables(**{SIGNING_KEY: secret("signing_key", new_signing_key)})
        if not self.uses_sandbox:
            return filled
        return filled.with_variables(
            ADMITONE_STRIPE_URL=f"http://{LOOPBACK}:{free_port()}",
            STRIPE_SECRET_KEY=f"sk_test_{secret('sandbox_key')}",
            STRIPE_WEBHOOK_SECRET=f"whsec_{secret('sandbox_webhook')}",
        )

    def sandbox(self, settings: Settings) -> Program | None:
        """Return the payment sandbox, which serves at the resolved settings' ADMITONE_STRIPE_URL."""
        if not self.uses_sandbox:
            return None
        variables = settings.environment
        folder = self.folder.path / "sandbox"
        port = urlsplit(variables["ADMITONE_STRIPE_URL"]).port
        program = Program(folder, "payment sandbox", ["stripe_sandbox"], port=port)
        program.environment = {
            "ADMITONE_SANDBOX_DATABASE": str(folder / "sandbox.sqlite3"),
            "ADMITONE_SANDBOX_KEY": variables["STRIPE_SECRET_KEY"],
            "ADMITONE_SANDBOX_WEBHOOK_SECRET": variables["STRIPE_WEBHOOK_SECRET"],
            "ADMITONE_SANDBOX_WEBHOOK_URL": f"{settings.local_url}/api/payments/webhook",
        }
        return program


class _RunningFile(msgspec.Struct):
    pid: int
    settings: Settings


@contextmanager
def running_file(settings: Settings) -> Iterator[None]:
    """Store the settings in the data folder for as long as the block lasts, for commands that need them.

    The signing key is left out: no command needs it.
    """
    file = Path(settings.data) / _RUNNING_FILE
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    environment = {
        name: value
        for name, value in settings.environment.items()
        if name.startswith(("ADMITONE_", "STRIPE_", "NATS_URL")) and name != SIGNING_KEY
    }
    content = _RunningFile(os.getpid(), msgspec.structs.replace(settings, environment=environment))
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(msgspec.json.encode(content))
    draft.rename(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def running_settings(data: Path) -> Settings | None:
    """Return the settings of the marketplace that runs on a data folder, or None if none runs."""
    try:
        content = msgspec.json.decode((data / _RUNNING_FILE).read_bytes(), type=_RunningFile)
    except (OSError, msgspec.MsgspecError):
        return None
    return content.settings if "admitone" in command_line(content.pid) else None
