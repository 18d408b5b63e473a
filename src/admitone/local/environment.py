"""The environment of one service's process: its own settings, and no other service's secrets."""

from collections.abc import Mapping

from admitone.kernel.service import Service
from admitone.kernel.settings import Settings, environment_of
from admitone.local.server import LOOPBACK


def environment_for(service: Service, settings: Settings, urls: Mapping[str, str]) -> dict[str, str]:
    """Return the variables from which `admitone serve` reads the settings of this service.

    `urls` are the addresses of all services. Settings that a service does not declare are left out, and with them the
    secrets of other services.
    """
    name = service.name
    environment = {
        "ADMITONE_DATA": settings.data,
        "ADMITONE_HOST": LOOPBACK,
        "ADMITONE_ORIGIN": settings.public_origin,
        "ADMITONE_DATABASE_CONNECTIONS": str(settings.database_connections),
        "ADMITONE_NATS_REPLICAS": str(settings.nats_replicas),
        "ADMITONE_LOG_LEVEL": settings.log_level,
        # Only our own proxy can reach the process, and it passes the client's address on.
        "ADMITONE_TRUST_PROXY": "1",
        f"ADMITONE_{name.upper()}_NATS_URL": settings.nats_url(name),
        **{f"ADMITONE_{other.upper()}_URL": url for other, url in urls.items()},
    }
    if name in settings.database_urls:
        environment[f"ADMITONE_{name.upper()}_DATABASE_URL"] = settings.database_urls[name]
    for struct in service.settings:
        environment |= environment_of(settings.read(struct))
    return environment
