"""Prints the part of requirements.lock that an image needs: some packages and their dependencies, with every hash.

The lock file covers development too. With one lock file for everything, the image runs the versions that are tested.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

# One pinned package with its hashes, then a comment with the packages that require it.
_ENTRY = re.compile(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==.*?(?=^[a-z0-9]|\Z)", re.MULTILINE | re.DOTALL)
_REQUIRED_BY = re.compile(r"^ +#(?: via)? +([a-z0-9._-]+)", re.MULTILINE)


def entries(lock: str) -> dict[str, str]:
    """Return each package's entry by its name."""
    return {match[1]: match[0] for match in _ENTRY.finditer(lock)}


def closure(lock: Mapping[str, str], packages: Iterable[str]) -> list[str]:
    """Return packages with all their dependencies, sorted; raises KeyError for one that is not locked."""
    requires: dict[str, set[str]] = {name: set() for name in lock}
    for name, entry in lock.items():
        for required_by in _REQUIRED_BY.findall(entry):
            requires.setdefault(required_by, set()).add(name)
    found: set[str] = set()
    left = list(packages)
    while left:
        name = left.pop()
        if name not in found:
            lock[name]
            found.add(name)
            left += requires[name]
    return sorted(found)


def direct(project: Mapping[str, object], extra: str | None) -> list[str]:
    """Return the names of the project's own dependencies, with those of an extra."""
    listed = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else ())]  # type: ignore[index,misc]
    return [re.split(r"[\[<>=~; ]", each)[0] for each in listed]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extra", help="an extra of the project to include")
    parser.add_argument("--without", nargs="*", default=[], help="direct dependencies to leave out")
    parser.add_argument("--only", nargs="*", help="packages to print instead of the project's dependencies")
    chosen = parser.parse_args(arguments)
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    lock = entries(Path("requirements.lock").read_text())
    packages = chosen.only or [name for name in direct(project, chosen.extra) if name not in chosen.without]
    sys.stdout.write("".join(lock[name] for name in closure(lock, packages)))


if __name__ == "__main__":
    main(sys.argv[1:])
