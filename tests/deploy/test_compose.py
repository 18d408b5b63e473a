"""The whole marketplace in containers on one machine: confined as in the cluster, each with its own secrets."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from admitone import registry
from admitone.kernel.settings import refuse_unknown
from admitone.local.routing import path_prefixes
from deploy.make_secrets import development, write_files
from tests.deploy.manifests import ROOT, SERVICES, manifests

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
ALL: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, each in ALL.items() if each["image"] == "admitone:development"}
DOCKERFILE = (ROOT / "deploy" / "image" / "Dockerfile").read_text()
NGINX = (ROOT / "deploy" / "compose" / "nginx.conf").read_text()


def mounts(name: str) -> dict[str, str]:
    """Return a container's mounts: path inside → path or volume outside."""
    return {target: source for source, target in (each.split(":")[:2] for each in ALL[name].get("volumes", ()))}


def test_every_service_runs_alone() -> None:
    assert {name for name in SERVICES if ALL[name]["command"] == ["serve", name]} == set(SERVICES)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_container_is_confined(name: str) -> None:
    container = ALL[name]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert "mem_limit" in container
    assert not {"privileged", "pid", "ipc", "devices"} & set(container)
    assert ":" in container["image"]
    assert not container["image"].endswith(":latest")
    if name in OURS:
        assert container["read_only"] is True
        assert container["cap_drop"] == ["ALL"]
    # The container that generates the secrets writes to the caller's folder, and has no network.
    assert container.get("user") in {None, "0:0"}
    assert container.get("user") is None or container["network_mode"] == "none"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_reads_only_its_own_secrets(name: str) -> None:
    read = {source.rpartition("/")[2] for source in mounts(name).values()}
    own = {secret for secret, _ in manifests("development").workload(name).secrets()}
    assert read == own
    for variable, value in ALL[name]["environment"].items():
        if variable.endswith("_FILE"):
            folder, _, _ = value.rpartition("/")
            assert folder in mounts(name), variable


def user_of(name: str) -> int:
    """Return the user id that reads a container's secrets."""
    if name in OURS:
        (user,) = set(re.findall(r"^USER (\d+):", DOCKERFILE, re.MULTILINE)) - {"0"}
        return int(user)
    return {"postgres": 999, "nats": 0}[name]  # of the official images


def test_a_secret_is_readable_only_by_the_containers_that_mount_it(tmp_path: Path) -> None:
    folder = tmp_path / "compose"
    write_files(development(), folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    seen = set()
    for name in ALL.keys() - {"secrets"}:
        for source in mounts(name).values():
            if source.startswith("./.admitone/compose/"):
                place = folder / source.rpartition("/")[2]
                seen.add(place)
                for path in (place, *place.rglob("*")):
                    assert path.stat().st_mode & 0o077 == 0, path
                    # Only root can give files away.
                    assert path.stat().st_uid == (user_of(name) if os.geteuid() == 0 else os.geteuid()), path
    # The administrator of the bus is an operator.
    assert {each.name for each in folder.iterdir() if each not in seen} == {"nats-admin"}


def test_secrets_that_an_earlier_version_left_open_are_kept_and_closed(tmp_path: Path) -> None:
    secrets = development()
    key = tmp_path / "jwt-secret" / "signing-key.pem"
    for name in ("jwt-secret", "orders-bus"):
        for file, value in secrets[name].items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_text(value)
            (tmp_path / name / file).chmod(0o444)
    write_files(development(), tmp_path)
    assert key.read_text() == secrets["jwt-secret"]["signing-key.pem"]
    assert key.stat().st_mode & 0o777 == 0o400
    assert (tmp_path / "nats-passwords" / "orders.conf").read_text() == secrets["orders-bus"]["password.conf"]
    assert (tmp_path / "tickets-bus" / "url").exists(), "what is missing is added"


def test_services_have_the_settings_that_they_have_in_the_cluster() -> None:
    settings = next(
        each["data"] for each in manifests("development").of("ConfigMap") if "ADMITONE_ORIGIN" in each["data"]
    )
    differing = {"ADMITONE_ORIGIN", "ADMITONE_LOG_LEVEL", "ADMITONE_ORDER_WINDOW_SECONDS"}
    for name in SERVICES:
        here = {
            variable: value for variable, value in ALL[name]["environment"].items() if not variable.endswith("_FILE")
        }
        assert {each: value for each, value in here.items() if each not in differing} == {
            each: value for each, value in settings.items() if each not in differing
        }


@pytest.mark.parametrize("name", [*SERVICES, "migrate"])
def test_every_variable_of_a_container_is_a_setting(name: str) -> None:
    refuse_unknown(ALL[name]["environment"], registry.setting_names())


def test_servers_have_the_versions_of_the_cluster() -> None:
    for name in ("nats", "postgres"):
        assert ALL[name]["image"] == manifests("development").workload(name).containers[0]["image"]


def test_only_the_proxy_is_published_and_only_on_this_machine() -> None:
    published = {name: each["ports"] for name, each in ALL.items() if "ports" in each}
    assert published == {"proxy": ["127.0.0.1:8080:8080"]}


def test_the_proxy_routes_each_path_to_the_service_that_serves_it() -> None:
    prefixes = path_prefixes(registry.SERVICES)
    assert {"/api/users", "/api/tickets", "/api/orders", "/api/payments", "/"} <= set(prefixes)
    for prefix, service in prefixes.items():
        pattern = "default" if prefix == "/" else f"~^{prefix}(/|$)"
        assert f"    {pattern} {service};\n" in NGINX
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in NGINX, "a client must not claim another address"


def test_the_proxy_limits_each_client() -> None:
    assert re.search(r"limit_req_zone \$binary_remote_addr zone=requests:10m rate=\d+r/s;", NGINX)
    assert re.search(r"limit_req zone=requests burst=\d+ nodelay;", NGINX)
    assert "limit_conn_zone $binary_remote_addr zone=connections:10m;" in NGINX
    assert re.search(r"limit_conn connections \d+;", NGINX)


def test_everything_mounted_from_the_tree_exists() -> None:
    for name in ALL:
        for source in mounts(name).values():
            if source.startswith("./deploy"):
                assert (ROOT / source).exists(), source
