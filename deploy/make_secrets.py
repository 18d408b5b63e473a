"""Generates every secret that an installation needs. Nothing is written to this repository.

    python -m deploy.make_secrets development | kubectl create -f -
    python -m deploy.make_secrets production | kubectl create -f -
    python -m deploy.make_secrets files FOLDER

Run it with the Python that AdmitOne is installed in. `kubectl create` does not replace existing secrets, and existing
files keep their values.
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

IMAGE_USER: Final = 10001
"""The user id of our image."""

# The official image of PostgreSQL reads its secrets as the user 999, that of NATS runs as root. Nothing
# mounts `nats-admin`: it is the operator's.
READERS: Final = {"databases": 999, "postgres-superuser": 999, "nats-passwords": 0, "nats-admin": 0}
"""The user ids that read the folders of secrets in compose.yaml, other than the one of our image."""


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
    password = token_urlsafe(32)
    found["nats-admin"] = {"password.conf": f'password: "{password}"\n', "password": password}
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
    """Write each key as the file `folder`/secret/key, and the files of PostgreSQL and NATS to folders of their own.

    Secrets that are there already are kept. Only the container that mounts a folder can read it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = {name: _stored(folder / name, data) or data for name, data in secrets.items()}
    files = {Path(name, key): value for name, data in found.items() for key, value in data.items()}
    for service in SERVICES:
        files[Path("nats-passwords", f"{service.name}.conf")] = found[f"{service.name}-bus"]["password.conf"]
    files[Path("nats-passwords", "admin.conf")] = found["nats-admin"]["password.conf"]
    for name in STORING:
        files[Path("databases", name, "password")] = found[f"{name}-database"]["password"]
        files[Path("databases", name, "migrator-password")] = found[f"{name}-migrator"]["password"]
    for file, value in files.items():
        _write(folder / file, value)
    _restrict(folder)


def _stored(place: Path, data: Mapping[str, str]) -> dict[str, str] | None:
    """Return the values of a secret that was written before, or None if one is missing."""
    if not all((place / key).exists() for key in data):
        return None
    return {key: (place / key).read_text() for key in data}


def _write(path: Path, value: str) -> None:
    if path.exists() and path.read_text() == value:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    draft.touch(mode=0o600)
    draft.write_text(value)
    draft.replace(path)


def _restrict(folder: Path) -> None:
    """Let each secret be read by the user of its container only; files of earlier versions were open to everybody."""
    folder.chmod(0o700)
    for place in folder.iterdir():
        for path in (place, *place.rglob("*")):
            path.chmod(0o700 if path.is_dir() else 0o400)
            if os.geteuid() == 0:  # otherwise everything belongs to the caller
                os.chown(path, *(READERS.get(place.name, IMAGE_USER),) * 2)


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
