"""The real server accepts the bus's configuration, with passwords where the secrets are mounted."""

import subprocess
from pathlib import Path

import pytest

from admitone.local.nats import program
from deploy import make_secrets
from tests.deploy.manifests import OVERLAYS, manifests


def write_configuration(overlay: str, folder: Path) -> Path:
    """Write every file of the pod below `folder`; return the one the server is started with."""
    system = manifests(overlay)
    found = (
        make_secrets.development()
        if overlay == "development"
        else make_secrets.production(dict.fromkeys(make_secrets.GIVEN, "x"))
    )
    bus = system.workload("nats")
    mounts = {each["name"]: folder / each["mountPath"].lstrip("/") for each in bus.main["volumeMounts"]}
    for volume in bus.pod["volumes"]:
        mounts[volume["name"]].mkdir(parents=True)
        if "configMap" in volume:
            for name, text in system.named("ConfigMap", volume["configMap"]["name"])["data"].items():
                (mounts[volume["name"]] / name).write_text(text)
        else:
            for source in volume["projected"]["sources"]:
                for item in source["secret"]["items"]:
                    (mounts[volume["name"]] / item["path"]).write_text(found[source["secret"]["name"]][item["key"]])
    flag, file = bus.main["args"]
    assert flag == "--config"
    return Path(folder, file.lstrip("/"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_server_accepts_its_configuration(overlay: str, tmp_path: Path) -> None:
    command = [str(program()), "-t", "-c", str(write_configuration(overlay, tmp_path))]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, env={"SERVER_NAME": "nats-0"})
    assert checked.returncode == 0, checked.stderr


def test_without_a_password_the_server_does_not_start(tmp_path: Path) -> None:
    """A missing secret must never mean an account without a password."""
    file = write_configuration("production", tmp_path)
    (tmp_path / "etc" / "nats-passwords" / "orders.conf").unlink()
    command = [str(program()), "-t", "-c", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, env={"SERVER_NAME": "nats-0"})
    assert checked.returncode != 0
