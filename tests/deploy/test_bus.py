"""The bus's configuration is one that the real server takes, with the passwords where the secrets are mounted."""

import subprocess
from pathlib import Path

import pytest

from admitone.local.nats import program
from deploy import make_secrets
from tests.deploy.manifests import OVERLAYS, manifests

GIVEN = ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "BACKUP_ACCESS_KEY_ID", "BACKUP_SECRET_ACCESS_KEY")


def laid_out(overlay: str, folder: Path) -> Path:
    """Put every file where the pod has it; return the one the server is started with."""
    system = manifests(overlay)
    found = (
        make_secrets.development() if overlay == "development" else make_secrets.production(dict.fromkeys(GIVEN, "x"))
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
    command = [str(program()), "-t", "-c", str(laid_out(overlay, tmp_path))]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, env={"SERVER_NAME": "nats-0"})
    assert checked.returncode == 0, checked.stderr


def test_without_a_password_the_server_does_not_start(tmp_path: Path) -> None:
    """A secret that is missing must be noticed, and never mean an open account."""
    file = laid_out("production", tmp_path)
    (tmp_path / "etc" / "nats-passwords" / "orders.conf").unlink()
    command = [str(program()), "-t", "-c", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, env={"SERVER_NAME": "nats-0"})
    assert checked.returncode != 0
