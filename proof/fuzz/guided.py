"""`python -m proof.fuzz.guided body`: one parser, guided by its coverage (atheris on libFuzzer, Linux only)."""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["admitone", "json", "jwt", "http.cookies", "urllib.parse", "stripe._webhook"]):
    from proof.fuzz.parsers import TARGETS, seeds_of


def main(name: str, options: list[str]) -> None:
    """Run until libFuzzer has finished or something is raised; libFuzzer ends this process itself."""
    seeds = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    for number, seed in enumerate(seeds_of(name)):
        (seeds / str(number)).write_bytes(seed)
    atheris.Setup([f"fuzz {name}", *options, str(seeds)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
