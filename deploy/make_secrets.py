"""Makes every secret an installation needs: once, at random, and written nowhere in this repository.

    python deploy/make_secrets.py development | kubectl create -f -
    python deploy/make_secrets.py files FOLDER

Run it with the Python that AdmitOne is installed in. `kubectl create` refuses to replace what is there, and files that
are there stay as they are.
"""

import base64
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

from admitone.auth.tokens import new_signing_key
from admitone.kernel.settings import SERVICES

Secrets = dict[str, dict[str, str]]

STORING = tuple(name for name in SERVICES if name != "web")
BUS_REPLICAS = 3


def made(host: Mapping[str, str], bus: str) -> Secrets:
    """Return what every installation has: `host` says where each database is, `bus` where the bus is."""
    found: Secrets = {"jwt-secret": {"signing-key.pem": new_signing_key()}}
    for service, place in host.items():
        for secret, role in ((f"{service}-database", service), (f"{service}-migrator", f"{service}_migrator")):
            password = token_urlsafe(32)
            url = f"postgresql://{role}:{password}@{place}:5432/{service}"
            found[secret] = {"username": role, "password": password, "url": url}
    for service in SERVICES:
        password = token_urlsafe(32)
        found[f"{service}-bus"] = {
            "password.conf": f'password: "{password}"\n',
            "url": f"nats://{service}:{password}@{bus}:4222",
        }
    return found


def development(postgres: str = "postgres", bus: str = "nats") -> Secrets:
    """One PostgreSQL for all, and the sandbox instead of Stripe."""
    return made(dict.fromkeys(STORING, postgres), bus) | {
        "postgres-superuser": {"password": token_urlsafe(32)},
        "stripe-secret": {
            "secret-key": f"sk_test_{token_urlsafe(24)}",
            "webhook-secret": f"whsec_{token_urlsafe(24)}",
        },
    }


def production(environment: Mapping[str, str]) -> Secrets:
    """A PostgreSQL cluster per service; what others gave us is read from the environment. Raises KeyError."""
    password = token_urlsafe(32)
    routes = [f"nats://cluster:{password}@nats-{number}.nats:6222" for number in range(BUS_REPLICAS)]
    return made({service: f"{service}-database-rw" for service in STORING}, "nats") | {
        "nats-cluster": {
            "password.conf": f'password: "{password}"\n',
            "routes.conf": f"routes: {json.dumps(routes)}\n",
        },
        "stripe-secret": {
            "secret-key": environment["STRIPE_SECRET_KEY"],
            "webhook-secret": environment["STRIPE_WEBHOOK_SECRET"],
        },
        "backup-store": {
            "access-key-id": environment["BACKUP_ACCESS_KEY_ID"],
            "secret-access-key": environment["BACKUP_SECRET_ACCESS_KEY"],
        },
    }


def manifest(secrets: Secrets) -> dict[str, Any]:
    """Return the secrets as a list that `kubectl create` reads."""
    return {"apiVersion": "v1", "kind": "List", "items": [_object(name, data) for name, data in secrets.items()]}


def _object(name: str, data: Mapping[str, str]) -> dict[str, Any]:
    is_login = "username" in data
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        # CloudNativePG demands the first type for a role's password, and follows its changes with the label.
        "type": "kubernetes.io/basic-auth" if is_login else "Opaque",
        "metadata": {
            "name": name,
            "namespace": "admitone",
            "labels": {"app.kubernetes.io/part-of": "admitone"}
            | ({"cnpg.io/reload": "true"} if "username" in data else {}),
        },
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }


def write_files(secrets: Secrets, folder: Path) -> None:
    """Write each key as the file `folder`/secret/key, and what PostgreSQL and NATS read in folders of their own."""
    if (folder / "jwt-secret" / "signing-key.pem").exists():
        return
    files = {Path(name, key): value for name, data in secrets.items() for key, value in data.items()}
    for service in SERVICES:
        files[Path("nats-passwords", f"{service}.conf")] = secrets[f"{service}-bus"]["password.conf"]
    for service in STORING:
        files[Path("databases", service, "password")] = secrets[f"{service}-database"]["password"]
        files[Path("databases", service, "migrator-password")] = secrets[f"{service}-migrator"]["password"]
    # The signing key last: it says that everything is there.
    for file, value in sorted(files.items(), key=lambda each: each[0].parts[0] == "jwt-secret"):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
        # Each container runs as a user of its own; what it must not read is not mounted.
        path.chmod(0o444)


def main(words: list[str]) -> None:
    match words:
        case ["development"]:
            json.dump(manifest(development()), sys.stdout)
        case ["production"]:
            try:
                json.dump(manifest(production(os.environ)), sys.stdout)
            except KeyError as missing:
                sys.exit(f"{missing.args[0]} is not set")
        case ["files", folder]:
            write_files(development(), Path(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
