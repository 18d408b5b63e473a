"""The environment of one service's process: its own settings, and no other service's secrets."""

from collections.abc import Mapping, Sequence
from typing import Final

from admitone.kernel.service import Service
from admitone.kernel.settings import Settings, SettingsError, environment_of
from admitone.local.server import LOOPBACK

_PORT_MAX: Final = 65_535


def metrics_ports(services: Sequence[Service], settings: Settings) -> dict[str, int]:
    """Return the port for each service's metrics: the one in the settings for the first, the next ones for the others.

    Empty without a metrics port. Raises SettingsError if there are not enough ports above it.
    """
    first, highest = settings.metrics_port, _PORT_MAX + 1 - len(services)
    if not first:
        return {}
    if first > highest:
        raise SettingsError(
            f"ADMITONE_METRICS_PORT must be at most {highest} with --processes: each service takes a port from there on"
        )
    return {each.name: port for port, each in enumerate(services, first)}


def environment_for(
    service: Service, settings: Settings, urls: Mapping[str, str], metrics_port: int = 0
) -> dict[str, str]:
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
        "ADMITONE_NATS_STREAM_BYTES": str(settings.nats_stream_bytes),
        "ADMITONE_LOG_LEVEL": settings.log_level,
        "ADMITONE_METRICS_PORT": str(metrics_port),
        "ADMITONE_OTLP_ENDPOINT": settings.otlp_endpoint,
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
