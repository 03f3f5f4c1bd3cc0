"""The manual and the completion are those of the flag tables, and README's lists do not lie."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PAGES = runpy.run_path(str(REPOSITORY / "tools/make-docs"))["PAGES"]


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_up_to_date(name: str) -> None:
    assert (REPOSITORY / "docs" / name).read_text(encoding="utf-8") == PAGES[name](), "run `make docs`"


@pytest.mark.parametrize(
    ("words", "offered"),
    [("pyctr image p", "prune pull push"), ("pyctr rm", "rmi"), ("pyctr -H x pull --p", "--platform"), ("pyctr system d", "df"),
     ("pyctr --d", "--debug"), ("pyctr load --input /etc/hostnam", "/etc/hostname"), ("pyctr bundle x /pro", "/proc")],
)  # fmt: skip
def test_completion_of_the_engine(words: str, offered: str) -> None:
    assert complete(words, program="pyctr") == set(offered.split())


def complete(text: str, *, program: str = "pyruntime") -> set[str]:
    """What bash offers for the last word of `text`; a blank at its end is an empty one."""
    words = text.split(" ")
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    script = f"""
source {REPOSITORY}/docs/{program}.bash
pyruntime() {{ echo "one of $*"; }}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1}
_{program}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return set(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("pyruntime sta", "start state"),
        ("pyruntime --root /x del", "delete"),
        ("pyruntime --log", "--log --log-format --log-level"),
        ("pyruntime --log-format ", "text json"),
        ("pyruntime --root /pro", "/proc"),
        ("pyruntime help del", "delete"),
        ("pyruntime delete --f", "--force"),
        ("pyruntime delete ", "one of list -q"),
        ("pyruntime --root /x delete --force o", "one of"),
        ("pyruntime --root /x pause /", "/x"),
        ("pyruntime delete x ", ""),
        ("pyruntime kill x T", "TERM"),
        ("pyruntime exec -e A=b o", "one of"),
        ("pyruntime exec x /etc/hostnam", "/etc/hostname"),
        ("pyruntime list -f j", "json"),
        ("pyruntime ps --format ", "table json"),
        ("pyruntime run --no", "--no-pivot --no-new-keyring --no-subreaper"),
        ("pyruntime run /pro", "/proc"),
        ("pyruntime run -b /pro", "/proc"),
        ("pyruntime create ", ""),
        ("pyruntime spec --rootless ", ""),
        ("pyruntime mounts ", "add remove"),
        ("pyruntime mounts add o", "one of"),
        ("pyruntime mounts add x /etc/hostnam", "/etc/hostname"),
        ("pyruntime update --kernel", ""),
    ],
)
def test_completion(words: str, offered: str) -> None:
    assert complete(words) == set(offered.split())
