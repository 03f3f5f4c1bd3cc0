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
    [(("pyctr", "image", "p"), {"prune", "pull", "push"}), (("pyctr", "rm"), {"rmi"}), (("pyctr", "-H", "x", "pull", "--p"), {"--platform"}),
     (("pyctr", "system", "d"), {"df"}), (("pyctr", "--d"), {"--debug"})],
    ids=str,
)  # fmt: skip
def test_completion_of_the_engine(words: tuple[str, ...], offered: set[str]) -> None:
    assert complete(*words, program="pyctr") == offered


def complete(*words: str, program: str = "pyruntime") -> set[str]:
    """What bash offers for the last of `words`."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    script = f"""
source {REPOSITORY}/docs/{program}.bash
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1}
_{program}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return set(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("pyruntime", "sta"), {"start", "state"}),
        (("pyruntime", "--root", "/x", "del"), {"delete"}),
        (("pyruntime", "--log"), {"--log", "--log-format", "--log-level"}),
        (("pyruntime", "delete", "--f"), {"--force"}),
        (("pyruntime", "run", "--no"), {"--no-pivot", "--no-new-keyring", "--no-subreaper"}),
        (("pyruntime", "update", "--kernel"), set()),
    ],
    ids=str,
)
def test_completion(words: tuple[str, ...], offered: set[str]) -> None:
    assert complete(*words) == offered
