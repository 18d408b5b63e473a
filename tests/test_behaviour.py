"""docs/behaviour.md and the tests name the same behaviours."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_behaviour_in_the_document_has_a_test_and_every_number_in_a_test_is_documented() -> None:
    tested: set[str] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                numbers = re.match(r"test_((?:[a-z]\d+_)+)", node.name)
                tested |= set(numbers[1].upper().split("_")) - {""} if numbers else set()
    documented = re.findall(r"^- \*\*([A-Z]\d+)\*\* ", (ROOT / "docs" / "behaviour.md").read_text(), re.MULTILINE)
    assert sorted(tested) == sorted(documented)
