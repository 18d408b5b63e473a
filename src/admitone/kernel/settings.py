"""Settings, read once from the environment; every variable may be given as a file with the suffix `_FILE`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from admitone.kernel.money import CURRENCIES

SERVICES: Final = ("auth", "tickets", "orders", "expiration", "payments", "web")


class SettingsError(Exception):
    """A setting is missing or makes no sense"""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator can choose; the README lists it."""

    data: str = ".admitone"
    host: str = "127.0.0.1"
    port: int = 8000
    origin: str = ""
    order_window_seconds: int = 900
    payment_attempts: int = 3
    currency: str = "usd"
    session_seconds: int = 12 * 3600
    database_urls: dict[str, str] = {}
    migrator_urls: dict[str, str] = {}
    nats_urls: dict[str, str] = {}
    nats_replicas: int = 1
    database_connections: int = 10
    service_urls: dict[str, str] = {}
    signing_key: str = ""
    stripe_secret_key: str = ""
    stripe_publishable_key: str = ""
    stripe_webhook_secret: str = ""
    stripe_url: str = ""
    log_level: str = "INFO"
    metrics_port: int = 0
    otlp_endpoint: str = ""
    trust_proxy: bool = False

    @property
    def public_origin(self) -> str:
        """The origin browsers see, such as https://tickets.example."""
        return self.origin or f"http://{self.host}:{self.port}"

    @property
    def is_https(self) -> bool:
        return self.public_origin.startswith("https://")

    def database_url(self, service: str) -> str:
        return _found(self.database_urls, service, "DATABASE_URL")

    def nats_url(self, service: str) -> str:
        return _found(self.nats_urls, service, "NATS_URL")

    def service_url(self, service: str) -> str:
        """Where another service's HTTP API is; the public origin routes to all of them."""
        return self.service_urls.get(service) or f"http://127.0.0.1:{self.port}"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the environment; raises SettingsError with one line that names the variable."""
        read = _Reader(os.environ if environment is None else environment)
        settings = cls(
            data=read.text("ADMITONE_DATA", ".admitone"),
            host=read.text("ADMITONE_HOST", "127.0.0.1"),
            port=read.number("ADMITONE_PORT", 8000, 1, 65535),
            origin=read.text("ADMITONE_ORIGIN", "").rstrip("/"),
            order_window_seconds=read.number("ADMITONE_ORDER_WINDOW_SECONDS", 900, 1, 86_400),
            payment_attempts=read.number("ADMITONE_PAYMENT_ATTEMPTS", 3, 1, 100),
            currency=read.text("ADMITONE_CURRENCY", "usd").lower(),
            session_seconds=read.number("ADMITONE_SESSION_SECONDS", 12 * 3600, 60, 7 * 24 * 3600),
            database_urls=read.per_service("DATABASE_URL"),
            migrator_urls=read.per_service("MIGRATOR_URL"),
            nats_urls=read.per_service("NATS_URL"),
            nats_replicas=read.number("ADMITONE_NATS_REPLICAS", 1, 1, 5),
            database_connections=read.number("ADMITONE_DATABASE_CONNECTIONS", 10, 2, 200),
            service_urls=read.per_service("URL"),
            signing_key=read.text("ADMITONE_SIGNING_KEY", ""),
            stripe_secret_key=read.text("STRIPE_SECRET_KEY", ""),
            stripe_publishable_key=read.text("STRIPE_PUBLISHABLE_KEY", ""),
            stripe_webhook_secret=read.text("STRIPE_WEBHOOK_SECRET", ""),
            stripe_url=read.text("ADMITONE_STRIPE_URL", ""),
            log_level=read.text("ADMITONE_LOG_LEVEL", "INFO").upper(),
            metrics_port=read.number("ADMITONE_METRICS_PORT", 0, 0, 65535),
            otlp_endpoint=read.text("ADMITONE_OTLP_ENDPOINT", read.text("OTEL_EXPORTER_OTLP_ENDPOINT", "")),
            trust_proxy=read.text("ADMITONE_TRUST_PROXY", "") == "1",
        )
        if settings.currency not in CURRENCIES:
            raise SettingsError(f"ADMITONE_CURRENCY must be one of {', '.join(sorted(CURRENCIES))}")
        if settings.origin and not settings.origin.startswith(("http://", "https://")):
            raise SettingsError("ADMITONE_ORIGIN must begin with http:// or https://")
        if settings.log_level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise SettingsError("ADMITONE_LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR")
        return settings


class _Reader:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str, default: str) -> str:
        if path := self._environment.get(f"{name}_FILE"):
            try:
                return Path(path).read_text().strip()
            except OSError as error:
                raise SettingsError(f"{name}_FILE cannot be read: {error.strerror}") from None
        return self._environment.get(name) or default

    def number(self, name: str, default: int, lowest: int, highest: int) -> int:
        text = self.text(name, str(default))
        try:
            value = int(text)
        except ValueError:
            raise SettingsError(f"{name} must be a whole number") from None
        if not lowest <= value <= highest:
            raise SettingsError(f"{name} must be between {lowest} and {highest}")
        return value

    def per_service(self, name: str) -> dict[str, str]:
        """Read ADMITONE_<SERVICE>_<NAME> for each service; a plain NATS_URL serves all of them."""
        shared = self.text(name, "") if name == "NATS_URL" else ""
        found = {service: self.text(f"ADMITONE_{service.upper()}_{name}", shared) for service in SERVICES}
        return {service: value for service, value in found.items() if value}


def _found(values: Mapping[str, str], service: str, name: str) -> str:
    try:
        return values[service]
    except KeyError:
        raise SettingsError(f"ADMITONE_{service.upper()}_{name} is not set") from None
