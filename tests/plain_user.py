"""A user without rights, and whether it may read this checkout: one in root's own folder it may not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def need_readable_checkout() -> None:
    """Skips where a plain user cannot import the package from here."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (Debian: util-linux)")
    probe = subprocess.run([*AS_NOBODY, sys.executable, "-c", "import pyruntime"], cwd="/", capture_output=True, check=False,
                           env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)})  # fmt: skip
    if probe.returncode:
        pytest.skip(f"needs a checkout that other users may read, {REPOSITORY} is not")
