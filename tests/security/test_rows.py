"""Every row of the table has a test that names it, and no test names a row that is not there."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.security.rows import ROWS

TESTS = Path(__file__).resolve().parents[1]
ENGINE = re.compile(r"S[56]\d")  # images and the engine keep their rows beside their own tests


def named() -> dict[str, set[str]]:
    """Row -> the tests whose docstring, or whose module's first line, names it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.FunctionDef, ast.Module)):
                continue
            name = getattr(node, "name", path.stem)
            if name.startswith("test_"):
                for row in re.findall(r"\b[SR]\d{1,2}\b", ast.get_docstring(node) or ""):
                    found[row].add(f"{path.relative_to(TESTS)}::{name}")
    return found


NAMED = named()


@pytest.mark.parametrize("row", ROWS)
def test_row_has_a_test(row: str) -> None:
    assert NAMED[row], ROWS[row]


def test_no_row_is_made_up() -> None:
    unknown = {row: tests for row, tests in NAMED.items() if row not in ROWS and tests and not ENGINE.fullmatch(row)}
    assert not unknown
