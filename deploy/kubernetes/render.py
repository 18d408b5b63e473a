"""Renders every overlay into `rendered/`: what is reviewed, tested and validated is what is applied, letter by letter.

Each file names the digest of everything it was made from, so that a machine without kubectl notices a stale one.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RENDERED = HERE / "rendered"
OVERLAYS = ("development", "production")


def sources() -> list[Path]:
    """Return the files that kustomize reads."""
    folders = (HERE / "base", HERE / "overlays")
    return sorted(file for folder in folders for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc")


def digest() -> str:
    """Return the digest of all sources, their names included."""
    found = hashlib.sha256()
    for file in sources():
        if file.suffix != ".py":
            found.update(f"{file.relative_to(HERE).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()


def has_kubectl() -> bool:
    return shutil.which("kubectl") is not None


def rendered(overlay: str) -> str:
    """Return an overlay as kubectl renders it."""
    command = ["kubectl", "kustomize", str(HERE / "overlays" / overlay)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    if not has_kubectl():
        sys.exit("kubectl is needed to render the manifests; kubernetes.io/docs/tasks/tools says how to install it")
    RENDERED.mkdir(exist_ok=True)
    for overlay in OVERLAYS:
        header = f"# Rendered by render.py from the sources of digest {digest()}; do not edit.\n"
        (RENDERED / f"{overlay}.yaml").write_text(header + rendered(overlay))


if __name__ == "__main__":
    main()
