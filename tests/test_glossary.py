"""docs/glossary.md names files that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_file_in_the_glossary_exists_and_every_term_is_there_once() -> None:
    rows = re.findall(
        r"^\| (?!-)([^|]+) \| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE
    )
    paths = [path for *_, where in rows for path in re.findall(r"`([^`]+)`", where)]
    assert [path for path in paths if not any((ROOT / "src" / "admitone").glob(path))] == []
    terms = [term for term, *_ in rows if term != "Term"]
    assert sorted(terms) == sorted(set(terms))
    assert len(terms) > 60
