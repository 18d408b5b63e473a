"""Writes every file that follows from the services' declarations: manifests, compose.yaml, bus accounts, dashboard.

    python -m deploy.render

`make manifests` runs it, and a test compares the files.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from admitone.local.nats import NatsUser, allow_list
from admitone.local.routing import path_prefixes
from admitone.registry import SERVICES
from deploy import dashboard, facts

ROOT: Final = Path(__file__).parents[1]
DEPLOY: Final = ROOT / "deploy"
RENDERED: Final = DEPLOY / "kubernetes" / "rendered"
OVERLAYS: Final = ("development", "production")

_CONTAINER_SECURITY: Final = (
    "{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}"
)


# Of one client, at the proxy in front of the services. As many connections as a service accepts without a proxy.
_LIMITS: Final = {"requests_per_second": 100, "requests_burst": 400, "connections_of_client": 200}


class Installation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What deploy/kubernetes/production.toml says."""

    host: str
    stripe_publishable_key: str
    backup_path: str
    backup_endpoint: str

    @classmethod
    def read(cls) -> "Installation":
        return msgspec.convert(tomllib.loads((DEPLOY / "kubernetes" / "production.toml").read_text()), cls)


@dataclass(frozen=True)
class ConfigMap:
    """A ConfigMap named after its content, so that pods restart when it changes."""

    name: str
    data: Mapping[str, str]

    @classmethod
    def of(cls, name: str, data: Mapping[str, str]) -> "ConfigMap":
        digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
        return cls(f"{name}-{digest[:10]}", data)


def _labels(name: str, component: str) -> str:
    return f"{{app.kubernetes.io/part-of: admitone, {_peer(name, component)[1:]}"


def _peer(name: str, component: str) -> str:
    """Return the labels by which network policies select pods."""
    return f"{{app.kubernetes.io/name: {name}, app.kubernetes.io/component: {component}}}"


def _pod_security(user: int, *, keep_owners: bool = False) -> str:
    """Return a pod's security context; with `keep_owners`, a large volume is not changed file by file at each start."""
    policy = ", fsGroupChangePolicy: OnRootMismatch" if keep_owners else ""
    return (
        f"{{runAsNonRoot: true, runAsUser: {user}, runAsGroup: {user}, fsGroup: {user}{policy},"
        " seccompProfile: {type: RuntimeDefault}}"
    )


def _settings(overlay: str, installation: Installation) -> ConfigMap:
    data = {
        "ADMITONE_METRICS_PORT": "9000",
        "ADMITONE_LOG_LEVEL": "INFO",
        # Network policies allow only the ingress and the pages to call a service, and both pass the client's address.
        "ADMITONE_TRUST_PROXY": "1",
        "ADMITONE_NATS_STREAM_BYTES": str(facts.STREAM_BYTES),
        **{
            f"ADMITONE_{each.name.upper()}_URL": f"http://{each.name}:8000"
            for each in SERVICES
            if facts.is_served(each)
        },
    }
    if overlay == "production":
        return ConfigMap.of(
            "settings",
            data
            | {
                "ADMITONE_ORIGIN": f"https://{installation.host}",
                "ADMITONE_NATS_REPLICAS": "3",
                "STRIPE_PUBLISHABLE_KEY": installation.stripe_publishable_key,
            },
        )
    return ConfigMap.of(
        "settings",
        data
        | {
            "ADMITONE_ORIGIN": "http://tickets.localhost",
            "ADMITONE_ORDER_WINDOW_SECONDS": "120",
            "ADMITONE_STRIPE_URL": "http://127.0.0.1:8100",
        },
    )


def _bus(overlay: str) -> ConfigMap:
    folder = DEPLOY / "nats"
    cluster = "cluster-production.conf" if overlay == "production" else "cluster.conf"
    return ConfigMap.of(
        "nats",
        {
            "nats.conf": (folder / "nats.conf").read_text(),
            "users.conf": nats_users(),
            "cluster.conf": (folder / cluster).read_text(),
        },
    )


def _environment(*folders: Path) -> Environment:
    environment = Environment(  # noqa: S701 – the templates are not HTML
        loader=FileSystemLoader(folders),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        services=SERVICES,
        prefixes=path_prefixes(SERVICES),
        credentials=facts.credentials,
        is_served=facts.is_served,
        stream_bytes=facts.STREAM_BYTES,
        **_LIMITS,
        calls=facts.calls,
        callers=facts.callers,
    )
    return environment


def manifests(overlay: str) -> str:
    """Return the Kubernetes manifests of one overlay."""
    is_production = overlay == "production"
    installation = Installation.read()
    return (
        _environment(DEPLOY / "kubernetes" / "templates", DEPLOY / "kubernetes")
        .get_template("manifests.yaml.j2")
        .render(
            production=is_production,
            installation=installation,
            # apply.sh replaces it by the image it is given; this name never resolves.
            image="registry.invalid/admitone:unknown" if is_production else "admitone:development",
            host=installation.host if is_production else "tickets.localhost",
            settings=_settings(overlay, installation),
            bus=_bus(overlay),
            config_map=ConfigMap.of,
            databases=facts.STORING,
            database_of=lambda service: f"{service.name}-database" if is_production else "postgres",
            database_sql=(DEPLOY / "postgres" / "database.sql").read_text(),
            initialise_sh=(DEPLOY / "postgres" / "initialise.sh").read_text(),
            labels=_labels,
            peer=_peer,
            pod_security=_pod_security,
            container_security=_CONTAINER_SECURITY,
        )
    )


def nats_users() -> str:
    """Return the bus accounts of services and of the administrator; passwords are included from files."""
    users = []
    for service in SERVICES:
        permissions = json.dumps(allow_list(NatsUser.of(service, "")).as_permissions(), indent=2)
        users.append(
            f'  {{\n    user: {service.name}\n    include "../nats-passwords/{service.name}.conf"\n'
            f"    permissions: {permissions}\n  }}\n"
        )
    # The administrator has two accounts, as one for the servers cannot see streams: `system` is for those.
    administrator = '  {\n    user: admin\n    include "../nats-passwords/admin.conf"\n  }\n'
    return (
        "# Rendered by deploy/render.py; do not edit.\n"
        f"authorization {{\n  users: [\n{''.join(users)}{administrator}  ]\n}}\n"
        "system_account: SYS\n"
        'accounts { SYS { users: [{user: system, include "../nats-passwords/admin.conf"}] } }\n'
    )


def _compose(name: str) -> str:
    return _environment(DEPLOY / "compose").get_template(f"{name}.j2").render()


FILES: Final[Mapping[Path, Any]] = {
    **{RENDERED / f"{overlay}.yaml": partial(manifests, overlay) for overlay in OVERLAYS},
    DEPLOY / "nats" / "users.conf": nats_users,
    ROOT / "compose.yaml": partial(_compose, "compose.yaml"),
    DEPLOY / "compose" / "nginx.conf": partial(_compose, "nginx.conf"),
    DEPLOY / "monitoring" / "dashboard.json": dashboard.rendered,
}
"""Each rendered file, and the function that returns its text."""


if __name__ == "__main__":
    for file, text in FILES.items():
        file.write_text(text())
