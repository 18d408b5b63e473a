"""Generates every secret that an installation needs. Nothing is written to this repository.

    python -m deploy.make_secrets development | kubectl create -f -
    python -m deploy.make_secrets production | kubectl create -f -
    python -m deploy.make_secrets files FOLDER

Run it with the Python that AdmitOne is installed in. `kubectl create` does not replace existing secrets, and existing
files stay as they are.
"""

import base64
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, Final

from admitone.auth.tokens import new_signing_key
from admitone.registry import SERVICES
from deploy.facts import STORING, secret_key, secret_variables

Secrets = dict[str, dict[str, str]]

BUS_REPLICAS: Final = 3
_BACKUP_KEYS: Final = {
    "BACKUP_ACCESS_KEY_ID": "access-key-id",
    "BACKUP_SECRET_ACCESS_KEY": "secret-access-key",
}
_PREFIXES: Final = {"STRIPE_SECRET_KEY": "sk_test_", "STRIPE_WEBHOOK_SECRET": "whsec_"}

# Settings of the services that are secret and that only a third party can give us, such as Stripe's keys.
_GIVEN: Final = sorted({each for service in SERVICES for each in secret_variables(service)} - {"ADMITONE_SIGNING_KEY"})

GIVEN: Final = (*_GIVEN, *_BACKUP_KEYS)
"""The environment variables that `production` reads."""


def _generated(database_hosts: Mapping[str, str], bus: str) -> Secrets:
    """Return the secrets of every installation: keys, and the accounts of databases and bus."""
    found: Secrets = {}
    signing_key = secret_key("ADMITONE_SIGNING_KEY")
    _store(found, signing_key.name, signing_key.key, new_signing_key())
    for database, host in database_hosts.items():
        for secret, role in ((f"{database}-database", database), (f"{database}-migrator", f"{database}_migrator")):
            password = token_urlsafe(32)
            url = f"postgresql://{role}:{password}@{host}:5432/{database}"
            found[secret] = {"username": role, "password": password, "url": url}
    for service in SERVICES:
        password = token_urlsafe(32)
        found[f"{service.name}-bus"] = {
            "password.conf": f'password: "{password}"\n',
            "url": f"nats://{service.name}:{password}@{bus}:4222",
        }
    return found


def _store(secrets: Secrets, name: str, key: str, value: str) -> None:
    secrets.setdefault(name, {})[key] = value


def development(postgres: str = "postgres", bus: str = "nats") -> Secrets:
    """Return secrets for one PostgreSQL that serves all databases, and for the sandbox instead of Stripe."""
    found = _generated(dict.fromkeys(STORING, postgres), bus)
    found["postgres-superuser"] = {"password": token_urlsafe(32)}
    for variable in _GIVEN:
        secret = secret_key(variable)
        _store(found, secret.name, secret.key, f"{_PREFIXES.get(variable, '')}{token_urlsafe(24)}")
    return found


def production(environment: Mapping[str, str]) -> Secrets:
    """Return secrets for a PostgreSQL cluster per service. Keys of third parties are read from the environment.

    Raises KeyError for a variable that is not set.
    """
    found = _generated({service: f"{service}-database-rw" for service in STORING}, "nats")
    password = token_urlsafe(32)
    routes = [f"nats://cluster:{password}@nats-{number}.nats:6222" for number in range(BUS_REPLICAS)]
    found["nats-cluster"] = {
        "password.conf": f'password: "{password}"\n',
        "routes.conf": f"routes: {json.dumps(routes)}\n",
    }
    for variable in _GIVEN:
        secret = secret_key(variable)
        _store(found, secret.name, secret.key, environment[variable])
    for variable, key in _BACKUP_KEYS.items():
        _store(found, "backup-store", key, environment[variable])
    return found


def manifest(secrets: Secrets) -> dict[str, Any]:
    """Return the secrets as a list that `kubectl create` reads."""
    return {"apiVersion": "v1", "kind": "List", "items": [_object(name, data) for name, data in secrets.items()]}


def _object(name: str, data: Mapping[str, str]) -> dict[str, Any]:
    is_login = "username" in data
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        # CloudNativePG requires the first type for a role's password, and the label to follow its changes.
        "type": "kubernetes.io/basic-auth" if is_login else "Opaque",
        "metadata": {
            "name": name,
            "namespace": "admitone",
            "labels": {"app.kubernetes.io/part-of": "admitone"} | ({"cnpg.io/reload": "true"} if is_login else {}),
        },
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }


def write_files(secrets: Secrets, folder: Path) -> None:
    """Write each key as the file `folder`/secret/key, and the files of PostgreSQL and NATS to folders of their own."""
    signing_key = secret_key("ADMITONE_SIGNING_KEY")
    if (folder / signing_key.name / signing_key.key).exists():
        return
    files = {Path(name, key): value for name, data in secrets.items() for key, value in data.items()}
    for service in SERVICES:
        files[Path("nats-passwords", f"{service.name}.conf")] = secrets[f"{service.name}-bus"]["password.conf"]
    for name in STORING:
        files[Path("databases", name, "password")] = secrets[f"{name}-database"]["password"]
        files[Path("databases", name, "migrator-password")] = secrets[f"{name}-migrator"]["password"]
    # The signing key last: its file marks the folder as complete.
    for file, value in sorted(files.items(), key=lambda each: each[0].parts[0] == signing_key.name):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
        # Each container runs as another user, and gets only the folders it may read.
        path.chmod(0o444)


def main(arguments: list[str]) -> None:
    match arguments:
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
