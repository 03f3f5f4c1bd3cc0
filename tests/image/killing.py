"""What tests share that break transfers at random: their marks, their seed, and programs that have begun, to be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("PYRUNTIME_SEED", "1"))
MARKS = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]


def begun(program: str, *words: object) -> subprocess.Popen[str]:
    """A Python program in a process of its own that has said so: it prints `begun` first."""
    call = subprocess.Popen([sys.executable, "-c", program, *map(str, words)], stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "PYTHONPATH": str(REPOSITORY)})  # fmt: skip
    assert call.stdout is not None
    assert call.stdout.readline() == "begun\n"
    return call
