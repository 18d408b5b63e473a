"""What a data folder's marketplace runs on: its servers, who may do what there, and the settings that lead there."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from admitone.kernel.service import Service
from admitone.kernel.settings import Settings
from admitone.local.folder import Folder
from admitone.local.nats import Nats, User
from admitone.local.postgres import Postgres
from admitone.local.program import Program
from admitone.local.provision import Database
from admitone.local.server import LOOPBACK, command_line, free_port

_RUNNING: Final = "running.json"


@dataclass(frozen=True)
class Installation:
    """One data folder and what its owner chose; whatever was not chosen is started here."""

    folder: Folder
    settings: Settings
    services: Sequence[Service]

    @property
    def wants_sandbox(self) -> bool:
        """Without a key of Stripe's, payments go to the sandbox."""
        return not self.settings.stripe_secret_key

    @property
    def databases(self) -> list[Database]:
        """Every database that is not somewhere else already."""
        names = [each.name for each in self.services if each.has_database]
        return [
            Database(name, self.folder.secret(f"database_{name}"), self.folder.secret(f"migrator_{name}"))
            for name in names
            if name not in self.settings.database_urls
        ]

    @property
    def bus_users(self) -> list[User]:
        """Every service that is not told of another bus, each with exactly what it tells and hears."""
        return [
            User(
                name=each.name,
                password=self.folder.secret(f"bus_{each.name}"),
                tells=bool(each.tells),
                hears=tuple(sorted({heard.producer for heard in each.all_heard})),
                # Without a database there is no inbox: such a service only watches events go by.
                watches=not each.has_database,
            )
            for each in self.services
            if each.name not in self.settings.nats_urls
        ]

    def postgres(self) -> Postgres | None:
        if not self.databases:
            return None
        return Postgres(self.folder.path / "postgres", self.folder.secret("database_superuser"))

    def nats(self) -> Nats | None:
        users = self.bus_users
        return Nats(self.folder.path / "nats", users) if users else None

    def resolved(self, postgres: Postgres | None, nats: Nats | None, new_signing_key: Callable[[], str]) -> Settings:
        """Return the settings with everything that is started here filled in, and every secret made once."""
        settings, secret = self.settings, self.folder.secret
        server_url = postgres.url() if postgres else ""
        bus_urls = {user: nats.url(user) for user in nats.users} if nats else {}
        filled = msgspec.structs.replace(
            settings,
            data=str(self.folder.path),
            signing_key=settings.signing_key or secret("signing_key", new_signing_key),
            database_urls={each.service: each.url(server_url) for each in self.databases} | settings.database_urls,
            migrator_urls={each.service: each.migrator_url(server_url) for each in self.databases}
            | settings.migrator_urls,
            nats_urls=bus_urls | settings.nats_urls,
        )
        if not self.wants_sandbox:
            return filled
        return msgspec.structs.replace(
            filled,
            stripe_url=f"http://{LOOPBACK}:{free_port()}",
            stripe_secret_key=f"sk_test_{secret('sandbox_key')}",
            stripe_webhook_secret=f"whsec_{secret('sandbox_webhook')}",
        )

    def sandbox(self, settings: Settings) -> Program | None:
        """Return the payment sandbox, which serves at the resolved settings' `stripe_url`."""
        if not self.wants_sandbox:
            return None
        folder = self.folder.path / "sandbox"
        port = urlsplit(settings.stripe_url).port
        program = Program(folder, "payment sandbox", ["stripe_sandbox"], port=port)
        program.told = {
            "ADMITONE_SANDBOX_DATABASE": str(folder / "sandbox.sqlite3"),
            "ADMITONE_SANDBOX_KEY": settings.stripe_secret_key,
            "ADMITONE_SANDBOX_WEBHOOK_SECRET": settings.stripe_webhook_secret,
            "ADMITONE_SANDBOX_WEBHOOK_URL": f"http://{_reached(settings.host)}:{settings.port}/api/payments/webhook",
        }
        return program


def _reached(host: str) -> str:
    """Return where a program on this machine reaches what listens on `host`."""
    if host in {"0.0.0.0", "::", "localhost"}:  # noqa: S104 – the operator's choice, not ours
        return LOOPBACK
    return f"[{host}]" if ":" in host else host


class _Running(msgspec.Struct):
    pid: int
    settings: Settings


@contextmanager
def noted(settings: Settings) -> Iterator[None]:
    """Leave word in the data folder of where everything is, for the commands that ask a running marketplace."""
    file = Path(settings.data) / _RUNNING
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    # The key that signs sessions is nothing an operator's command needs.
    running = _Running(os.getpid(), msgspec.structs.replace(settings, signing_key=""))
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(msgspec.json.encode(running))
    draft.rename(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def found_running(data: Path) -> Settings | None:
    """Return the settings of the marketplace that runs on a data folder now, if one does."""
    try:
        running = msgspec.json.decode((data / _RUNNING).read_bytes(), type=_Running)
    except (OSError, msgspec.MsgspecError):
        return None
    return running.settings if "admitone" in command_line(running.pid) else None
