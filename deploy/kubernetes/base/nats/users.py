"""Writes users.conf: what each service may do on the bus, as the services' own declarations say."""

import json
from pathlib import Path

from admitone import registry
from admitone.kernel.service import Service
from admitone.local.nats import User, allow_list

FILE = Path(__file__).with_name("users.conf")


def bus_user(service: Service) -> User:
    """Return the bus account that a service's declaration calls for."""
    subscriptions = tuple(sorted({heard.producer for heard in service.subscriptions}))
    return User(
        service.name,
        "",
        publications=bool(service.publications),
        subscriptions=subscriptions,
        watches=not service.has_database,
    )


def rendered() -> str:
    """Return the file's text."""
    users = []
    for service in registry.SERVICES:
        allowed = allow_list(bus_user(service))
        permissions = {
            # An empty list would mean "everything" to the server.
            "publish": {"allow": allowed.publish} if allowed.publish else {"deny": [">"]},
            "subscribe": {"allow": allowed.subscribe} if allowed.subscribe else {"deny": [">"]},
        }
        users.append(
            f'  {{\n    user: {service.name}\n    include "../nats-passwords/{service.name}.conf"\n'
            f"    permissions: {json.dumps(permissions, indent=2)}\n  }}\n"
        )
    return (
        "# Written by users.py from what the services declare; a test compares.\n"
        f"authorization {{\n  users: [\n{''.join(users)}  ]\n}}\n"
    )


if __name__ == "__main__":
    FILE.write_text(rendered())
