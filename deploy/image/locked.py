"""Prints the part of requirements.lock that the image needs: some packages, what they need, every hash.

The lock covers development too. Taking a part of it keeps one lock for everything, so that what is tested is what runs.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

# One pinned package with its hashes, then the comment that says who needs it.
_ENTRY = re.compile(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==.*?(?=^[a-z0-9]|\Z)", re.MULTILINE | re.DOTALL)
_NEEDED_BY = re.compile(r"^ +#(?: via)? +([a-z0-9._-]+)", re.MULTILINE)


def entries(lock: str) -> dict[str, str]:
    """Return each package's entry by its name."""
    return {match[1]: match[0] for match in _ENTRY.finditer(lock)}


def closure(lock: Mapping[str, str], wanted: Iterable[str]) -> list[str]:
    """Return the wanted packages and all they need, sorted; raises KeyError for one that is not locked."""
    needs: dict[str, set[str]] = {name: set() for name in lock}
    for name, entry in lock.items():
        for needed_by in _NEEDED_BY.findall(entry):
            needs.setdefault(needed_by, set()).add(name)
    found: set[str] = set()
    left = list(wanted)
    while left:
        name = left.pop()
        if name not in found:
            lock[name]
            found.add(name)
            left += needs[name]
    return sorted(found)


def direct(project: Mapping[str, object], extra: str | None) -> list[str]:
    """Return the names of the project's own dependencies, with those of an extra."""
    listed = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else ())]  # type: ignore[index,misc]
    return [re.split(r"[\[<>=~; ]", each)[0] for each in listed]


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extra", help="an extra of the project that is wanted too")
    parser.add_argument("--without", nargs="*", default=[], help="direct dependencies that are not wanted")
    parser.add_argument("--only", nargs="*", help="packages to take instead of the project's dependencies")
    chosen = parser.parse_args(words)
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    lock = entries(Path("requirements.lock").read_text())
    wanted = chosen.only or [name for name in direct(project, chosen.extra) if name not in chosen.without]
    sys.stdout.write("".join(lock[name] for name in closure(lock, wanted)))


if __name__ == "__main__":
    main(sys.argv[1:])
