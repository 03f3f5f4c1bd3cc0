"""ruff and mypy find nothing: what `make lint` and `make types` run, as tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A command in the checkout."""
    return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def run_module(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m NAME WORDS` in the checkout; skips when the tool is not installed."""
    probe = subprocess.run([sys.executable, "-m", name, "--version"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"needs {name}: pip install {name}")
    return run(sys.executable, "-m", name, *words)


def test_ruff() -> None:
    result = run_module("ruff", "check", "--output-format=concise", ".")
    assert result.returncode == 0, result.stdout


def test_mypy() -> None:
    result = run_module("mypy")
    assert result.returncode == 0, result.stdout


def test_c_format() -> None:
    if shutil.which("clang-format") is None:
        pytest.skip("needs clang-format")
    result = run("make", "-s", "-C", "csrc", "check-format")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", sorted((REPOSITORY / "pyruntime").rglob("*.py")), ids=lambda path: path.name)
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 600
