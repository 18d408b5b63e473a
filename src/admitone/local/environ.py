"""What one process is told by its environment: its own part of the settings, and no other's secrets."""

from collections.abc import Mapping

from admitone.kernel.settings import Settings
from admitone.local.server import LOOPBACK


def for_service(service: str, settings: Settings, urls: Mapping[str, str]) -> dict[str, str]:
    """Return the variables from which `admitone serve` reads the settings of this one service again."""
    told = {
        "ADMITONE_DATA": settings.data,
        "ADMITONE_HOST": LOOPBACK,
        "ADMITONE_ORIGIN": settings.public_origin,
        "ADMITONE_ORDER_WINDOW_SECONDS": str(settings.order_window_seconds),
        "ADMITONE_PAYMENT_ATTEMPTS": str(settings.payment_attempts),
        "ADMITONE_CURRENCY": settings.currency,
        "ADMITONE_SESSION_SECONDS": str(settings.session_seconds),
        "ADMITONE_DATABASE_CONNECTIONS": str(settings.database_connections),
        "ADMITONE_NATS_REPLICAS": str(settings.nats_replicas),
        "ADMITONE_LOG_LEVEL": settings.log_level,
        # Only our own proxy can reach the process, and it says who called.
        "ADMITONE_TRUST_PROXY": "1",
        f"ADMITONE_{service.upper()}_NATS_URL": settings.nats_url(service),
        **{f"ADMITONE_{name.upper()}_URL": url for name, url in urls.items()},
    }
    if service in settings.database_urls:
        told[f"ADMITONE_{service.upper()}_DATABASE_URL"] = settings.database_urls[service]
    if service == "auth":
        told["ADMITONE_SIGNING_KEY"] = settings.signing_key
    if service in {"payments", "web"}:
        told["ADMITONE_STRIPE_URL"] = settings.stripe_url
        told["STRIPE_PUBLISHABLE_KEY"] = settings.stripe_publishable_key
    if service == "payments":
        told["STRIPE_SECRET_KEY"] = settings.stripe_secret_key
        told["STRIPE_WEBHOOK_SECRET"] = settings.stripe_webhook_secret
    return told
