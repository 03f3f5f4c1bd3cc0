"""The table of rooms (which may import which) holds for every import statement of the package, nested ones included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pyruntime"
BASE = frozenset({"record", "errors", "version"})
# room -> rooms its modules may import beside BASE and itself
ROOMS = {
    "record": set(),
    "errors": set(),
    "version": set(),
    "spec": set(),
    "host.facts": set(),
    "host": {"host.facts", "native"},
    "plan": {"spec", "host.facts"},
    "native": {"plan.opcodes", "plan.layout"},  # the protocol's numbers, one source for Python and C
    "cgroup": {"spec", "host.facts", "native", "plan.step"},
    "criu": {"native"},
    "lifecycle": {"spec", "host", "host.facts", "plan", "native", "cgroup", "criu"},
    "library": {"spec", "host", "host.facts", "plan", "native", "cgroup", "lifecycle", "criu"},
    "image": {"spec", "native"},
    "engine": {"spec", "host", "host.facts", "plan", "native", "cgroup", "lifecycle", "library", "image"},
    "api.server": {"engine"},
    "api.client": set(),
    "api": set(),
    "cli": {"spec", "host", "host.facts", "plan", "native", "cgroup", "lifecycle", "library", "image", "engine",
            "api.server", "api.client"},
}
# Modules that are a room of their own inside another.
INNER = ("host.facts", "plan.step", "plan.opcodes", "plan.layout", "api.server", "api.client")


def room_of(name: str) -> str:
    """The room of a module's name below the package: `plan.mounts` is in `plan`, `host.facts` is its own."""
    for inner in INNER:
        if name == inner or name.startswith(f"{inner}."):
            return inner
    return name.partition(".")[0]


def imports_of(tree: ast.AST) -> set[str]:
    """Names below the package that the module imports, anywhere but under `if TYPE_CHECKING`."""
    names: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            pending += node.orelse
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pyruntime":
            base = (node.module or "").partition(".")[2]
            # `from pyruntime.plan import step` names a module of plan, `from pyruntime.plan.step import Step` a class
            names |= {f"{base}.{alias.name}".strip(".") for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("pyruntime.")}
        pending += ast.iter_child_nodes(node)
    return {name for name in names if name}


def modules() -> list[Path]:
    """All modules that are loaded at run time; the package's own front and the build script are not rooms."""
    front = {PACKAGE / "__init__.py", PACKAGE / "__main__.py", *(PACKAGE / "native").glob("build_*.py")}
    return sorted(path for path in PACKAGE.rglob("*.py") if path not in front)


def name_of(path: Path) -> str:
    """pyruntime/plan/mounts.py -> plan.mounts."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_follow_the_table(path: Path) -> None:
    room = room_of(name_of(path))
    here = room.partition(".")[0]
    assert room in ROOMS or here in ROOMS, f"{room} is no room of the table"
    # an inner room is one for those who may not see the whole; inside, it is a module like the others
    allowed = BASE | ROOMS.get(room, ROOMS[here]) | ({here} if room not in ROOMS else {room})
    allowed |= {inner for inner in INNER if inner.partition(".")[0] in allowed}
    imported = {room_of(name) for name in imports_of(ast.parse(path.read_text(encoding="utf-8")))}
    assert sorted(imported - allowed) == []


def test_the_checker_sees_an_arrow_that_is_not_in_the_table() -> None:
    inside = "def f():\n    from pyruntime.cgroup import writes\n    import pyruntime.cli.main\n"
    text = inside + "if TYPE_CHECKING:\n    import pyruntime.spec\n"
    assert imports_of(ast.parse(text)) == {"cgroup.writes", "cli.main"}


def test_nothing_of_images_is_reachable_from_the_lower_half() -> None:
    for room, allowed in ROOMS.items():
        if room in {"image", "engine", "api", "api.server", "api.client", "cli"}:
            continue
        assert not allowed & {"image", "engine", "api.server", "api.client"}, room


def test_no_module_of_the_lower_half_knows_the_command_line() -> None:
    for path in modules():
        if room_of(name_of(path)) != "cli":
            imported = imports_of(ast.parse(path.read_text(encoding="utf-8")))
            assert "cli" not in {room_of(name) for name in imported}, path
