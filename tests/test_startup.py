"""What each verb loads: the fast verbs stay with built-in modules, our own, and a few compiled ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle

REPOSITORY = Path(__file__).resolve().parent.parent
# Compiled into the interpreter on Debian; elsewhere some are shared objects of their own.
COMPILED = {"_json", "_cffi_backend", "_struct", "_socket", "binascii", "errno", "fcntl", "math", "pwd", "select"}
FOUND = COMPILED | {"__future__"}
WORK = """
import sys
sys.path += {paths!r}
before = set(sys.modules)
{body}
sys.stderr.write("\\n" + " ".join(sorted(set(sys.modules) - before)))
sys.stderr.flush()
"""
CALL = """
from pyruntime.cli.main import main
main(["pyruntime", *{words!r}])
"""


def loaded(body: str) -> set[str]:
    """Names in sys.modules after `body`, in an interpreter started as the launcher starts it, that were not before."""
    paths = [str(REPOSITORY), *(path for path in sys.path if path.endswith("site-packages"))]
    text = WORK.format(paths=paths, body=body)
    result = subprocess.run([sys.executable, "-I", "-S", "-c", text], capture_output=True, text=True, check=True,
                            stdin=subprocess.DEVNULL)  # fmt: skip
    return set(result.stderr.rpartition("\n")[2].split())


def foreign(names: set[str]) -> set[str]:
    """Those that are neither ours nor built in nor on the list."""
    return {name for name in names if name.partition(".")[0] != "pyruntime"} - FOUND - set(sys.builtin_module_names)


FAST = {
    "create": ["create", "--bundle", "/nonexistent", "x"],
    "run": ["run", "/nonexistent/"],
    "start": ["start", "x"],
    "state": ["state", "x"],
    "kill": ["kill", "x"],
    "delete": ["delete", "x"],
    "exec": ["exec", "x", "true"],
    "pause": ["pause", "x"],
    "resume": ["resume", "x"],
    "update": ["update", "--pids-limit", "5", "x"],
    "checkpoint": ["checkpoint", "x"],
}


@pytest.mark.parametrize("verb", FAST)
def test_a_fast_verb_loads_nothing_of_the_library(verb: str, tmp_path: Path) -> None:
    words = ["--root", str(tmp_path), *FAST[verb]]
    assert foreign(loaded(CALL.format(words=words))) == set()


@pytest.mark.parametrize(
    ("verb", "unwanted"),
    [
        ("state", ("pyruntime.plan", "pyruntime.cgroup", "pyruntime.native", "pyruntime.spec.parse", "_cffi_backend")),
        ("kill", ("pyruntime.plan", "pyruntime.spec.parse")),
        ("start", ("pyruntime.cli.output", "pyruntime.cli.help")),
        ("run", ("pyruntime.cli.output", "pyruntime.cli.help", "pyruntime.spec.validate", "pyruntime.plan.explain")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_verb_leaves_other_rooms_alone(verb: str, unwanted: tuple[str, ...], tmp_path: Path) -> None:
    names = loaded(CALL.format(words=["--root", str(tmp_path), *FAST[verb]]))
    assert [name for name in sorted(names) if name.startswith(unwanted)] == []


def test_help_and_version_load_no_room() -> None:
    for words in (["--help"], ["run", "--help"], []):
        names = loaded(CALL.format(words=words))
        rooms = {name.split(".")[1] for name in names if name.startswith("pyruntime.")}
        assert rooms <= {"cli", "errors", "record", "version"}, words


def test_import_of_the_package_is_empty() -> None:
    assert loaded("import pyruntime") == {"pyruntime"}


@pytest.mark.system
def test_a_real_run(make_bundle: Callable[..., Bundle], own_host: None, tmp_path: Path) -> None:
    bundle = make_bundle("true")
    words = ["--root", str(tmp_path / "root"), "run", "--bundle", str(bundle.path), "startup"]
    assert foreign(loaded(CALL.format(words=words))) == set()


def test_the_check_notices_a_library_module() -> None:
    assert foreign(loaded("import json")) >= {"json", "re"}


def test_the_list_is_what_the_embedded_interpreter_has_too() -> None:
    """cli/embed.py names the compiled modules it can load; all others complete the interpreter, which costs ms."""
    text = (REPOSITORY / "pyruntime/cli/embed.py").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("EXTENSIONS"))
    names = set(json.loads(line.partition("=")[2].strip().replace("(", "[").replace(")", "]")))
    assert names == {"_json", "_cffi_backend"}
