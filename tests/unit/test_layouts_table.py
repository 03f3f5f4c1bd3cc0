"""conformance/layouts.md names tests that exist, every test of the virtual machine, and has something on each layout."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.layouts import LAYOUTS, V1_SYSTEMD

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = ROOT / "conformance" / "layouts.md"
HEAD, *ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in TABLE.read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and not line.startswith("|-")
]
CELLS = {row[0].strip("`"): dict(zip(HEAD[1:], row[1:], strict=True)) for row in ROWS}


def functions(file: Path) -> set[str]:
    """Test functions that the module defines or takes over from another one."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    found |= {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    return {name for name in found if name.startswith("test_")}


def test_every_layout_has_tests() -> None:
    assert set(HEAD[1:]) == {*LAYOUTS, V1_SYSTEMD}
    assert {layout for layout in HEAD[1:] if not any(cells[layout] for cells in CELLS.values())} == set()


def test_every_name_exists() -> None:
    for name in CELLS:
        file, _, function = name.partition("::")
        assert (ROOT / "tests" / file).exists(), name
        assert not function or function in functions(ROOT / "tests" / file), name


def test_every_test_of_the_guest_is_there() -> None:
    """But for the modules that the table itself says were not run."""
    missing = next((line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("Not run: ")), "")
    there = {f"vm/{file.name}::{name}" for file in (ROOT / "tests/vm").glob("test_*.py") for name in functions(file)
             if f"`vm/{file.name}`" not in missing}  # fmt: skip
    assert there - CELLS.keys() == set()
