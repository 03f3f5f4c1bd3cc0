"""conformance/features.md: every row is shown by tests that exist, or says that it is not there yet."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = ROOT / "conformance" / "features.md"
ROWS = [
    tuple(cell.strip() for cell in line.strip("|\n").split(" | "))
    for line in TABLE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| feature")
]
NAMES = sorted({name for row in ROWS for name in re.findall(r"`([\w/]+\.py::\w+)`", row[1])})


def test_every_row_has_tests_or_is_not_there() -> None:
    assert [row[0] for row in ROWS if not re.search(r"\.py::", row[1]) and not row[1].startswith("not yet")] == []
    assert len({row[0] for row in ROWS}) == len(ROWS) > 40


@pytest.mark.parametrize("name", NAMES)
def test_the_test_exists(name: str) -> None:
    file, _, function = name.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
