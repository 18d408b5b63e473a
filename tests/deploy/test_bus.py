"""The real server with the bus's configuration, with passwords where the secrets are mounted, and its probes."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import nats
import nats.errors
import pytest

from admitone.local.nats import Nats, program
from admitone.local.server import LOOPBACK, free_port
from admitone.registry import SERVICES
from deploy import make_secrets
from tests.deploy.manifests import OVERLAYS, manifests
from tests.engines import wait_until


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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_streams_together_cannot_fill_the_volume(overlay: str, tmp_path: Path) -> None:
    system = manifests(overlay)
    settings = next(each["data"] for each in system.of("ConfigMap") if "ADMITONE_ORIGIN" in each["data"])
    streams = sum(bool(each.publications) for each in SERVICES) * int(settings["ADMITONE_NATS_STREAM_BYTES"])
    store = re.search(r"max_file_store: (\d+)GB", write_configuration(overlay, tmp_path).read_text())
    assert store is not None
    (claim,) = system.workload("nats").whole["spec"]["volumeClaimTemplates"]
    volume = re.fullmatch(r"(\d+)Gi", claim["spec"]["resources"]["requests"]["storage"])
    assert volume is not None
    # Indexes and the logs of a cluster take room, too.
    assert streams <= 0.9 * int(store[1]) * 2**30 < 0.9 * int(volume[1]) * 2**30


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Run the server of the development cluster with the files of its pod; return its port on this machine."""
    file = write_configuration("development", tmp_path)
    port, monitor = free_port(), free_port()
    text = file.read_text()
    for ours, there in ((f'"{LOOPBACK}:{port}"', '"0.0.0.0:4222"'), (f'"{LOOPBACK}:{monitor}"', '"0.0.0.0:8222"')):
        assert there in text
        text = text.replace(there, ours)
    file.write_text(text.replace("store_dir: /data", f"store_dir: {tmp_path / 'data'}"))
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([program(), "-c", file], env={"SERVER_NAME": "nats-0"}, stdout=log, stderr=log)
    try:
        wait_until(lambda: b"Server is ready" in (tmp_path / "log").read_bytes(), "the server is ready")
        yield port
    finally:
        server.terminate()
        server.wait()


async def test_the_administrator_can_change_streams_and_look_at_servers(port: int, tmp_path: Path) -> None:
    password = (tmp_path / "etc" / "nats-passwords" / "admin.conf").read_text().split('"')[1]
    admin = await nats.connect(f"nats://admin:{password}@{LOOPBACK}:{port}")
    stream = await admin.jetstream().add_stream(name="orders", subjects=["events.orders.>"])
    stream.config.max_bytes = 1_000_000
    assert (await admin.jetstream().update_stream(stream.config)).config.max_bytes == 1_000_000
    system = await nats.connect(f"nats://system:{password}@{LOOPBACK}:{port}")
    assert b"nats-0" in (await system.request("$SYS.REQ.SERVER.PING", timeout=5)).data
    await admin.close()
    await system.close()


def probe_of(monitor_port: int, folder: Path) -> Callable[[], int]:
    """Return a function that runs the bus's liveness probe against a server; its `nc` is a stand-in for BusyBox's."""
    command = manifests("production").workload("nats").main["livenessProbe"]["exec"]["command"]
    (folder / "nc").write_text(
        f"#!{sys.executable}\n"
        "import socket, sys\n"
        f"with socket.create_connection(('{LOOPBACK}', {monitor_port}), 2) as connection:\n"
        "    assert sys.argv[-2:] == ['127.0.0.1', '8222']\n"
        "    connection.sendall(sys.stdin.buffer.read())\n"
        "    print(connection.makefile().read())\n"
    )
    (folder / "nc").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return lambda: subprocess.run(command, env={"PATH": path}, capture_output=True, check=False).returncode


async def test_a_failed_write_makes_the_bus_restart(start_nats: Callable[..., Nats], tmp_path: Path) -> None:
    """A file size limit simulates the full disk."""
    server = start_nats()
    probe = probe_of(server.monitor_port, tmp_path)
    assert probe() == 0
    client = await nats.connect(server.url("admin"))
    await client.jetstream().add_stream(name="orders", subjects=["events.orders.>"])
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, 1))
    with pytest.raises(nats.errors.TimeoutError):
        await client.jetstream().publish("events.orders.OrderCreated", b"refused by the disk", timeout=0.5)
    await client.close()
    assert probe() == 1
    server.stop()
    assert probe() == 1, "a server that does not respond"


def test_a_healthy_server_without_a_majority_is_not_restarted(tmp_path: Path) -> None:
    """The others may be restarting: one more restart would only delay the election."""
    monitor = free_port()
    file = tmp_path / "one-of-three.conf"
    file.write_text(
        f'server_name: nats-0\nlisten: "{LOOPBACK}:{free_port()}"\nhttp: "{LOOPBACK}:{monitor}"\n'
        f"jetstream {{ store_dir: {tmp_path / 'data'} }}\n"
        f'cluster {{ name: here, listen: "{LOOPBACK}:{free_port()}", routes: ["nats://{LOOPBACK}:{free_port()}"] }}\n'
    )
    probe = probe_of(monitor, tmp_path)
    with (tmp_path / "log").open("wb") as log:
        alone = subprocess.Popen([program(), "-c", file], stdout=log, stderr=log)
    try:
        wait_until(lambda: b"Server is ready" in (tmp_path / "log").read_bytes(), "the server is ready")
        assert probe() == 0
        health = f"http://{LOOPBACK}:{monitor}/healthz"
        assert httpx.get(health).status_code == 503, "the server's own check would have restarted it"
    finally:
        alone.terminate()
        alone.wait()
