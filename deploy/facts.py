"""Facts about the services that deployments need, read from the services' declarations."""

from dataclasses import dataclass
from typing import Final

from admitone.kernel.service import Service
from admitone.kernel.settings import variables
from admitone.registry import AUTHORITY, SERVICES

STORING: Final = tuple(each.name for each in SERVICES if each.has_database)
"""The services with a database."""

# Of the 9 GB that deploy/nats/nats.conf allows; JetStream reserves the limit of every stream.
_STREAMS_BYTES: Final = 8 * 2**30
STREAM_BYTES: Final = _STREAMS_BYTES // sum(bool(each.publications) for each in SERVICES)
"""The limit of each stream: together they fit the volume, so that the bus cannot fill its disk."""


@dataclass(frozen=True)
class SecretKey:
    """A key of a secret, and the name of its file in a pod."""

    name: str
    key: str
    path: str


# Secrets that operators create or replace by hand; see docs/operating.md.
_NAMED: Final = {
    "ADMITONE_SIGNING_KEY": ("jwt-secret", "signing-key.pem"),
    "STRIPE_SECRET_KEY": ("stripe-secret", "secret-key"),
    "STRIPE_WEBHOOK_SECRET": ("stripe-secret", "webhook-secret"),
}


def secret_variables(service: Service) -> list[str]:
    """Return the service's settings that are secret."""
    return [each.name for struct in service.settings for each in variables(struct).values() if each.is_secret]


def secret_key(variable: str) -> SecretKey:
    """Return where the value of a secret setting is stored: by default, in a secret of its own."""
    file = variable.lower().replace("_", "-")
    name, key = _NAMED.get(variable, (file, "value"))
    return SecretKey(name, key, file)


def credentials(service: Service) -> dict[str, SecretKey]:
    """Return everything secret that a service reads, by its environment variable."""
    prefix = f"ADMITONE_{service.name.upper()}"
    found = {}
    if service.has_database:
        found[f"{prefix}_DATABASE_URL"] = SecretKey(f"{service.name}-database", "url", "database-url")
    found[f"{prefix}_NATS_URL"] = SecretKey(f"{service.name}-bus", "url", "bus-url")
    return found | {variable: secret_key(variable) for variable in secret_variables(service)}


def is_served(service: Service) -> bool:
    """Return whether the service has an API or pages."""
    return bool(service.operations) or service.pages is not None


def calls(service: Service) -> list[str]:
    """Return the services whose API a service calls. Every service fetches the keys that verify sessions."""
    return [each.name for each in SERVICES if each.name in {AUTHORITY.service, *service.calls} - {service.name}]


def callers(service: Service) -> list[str]:
    """Return the services that call a service's API."""
    return [each.name for each in SERVICES if service.name in calls(each)]
