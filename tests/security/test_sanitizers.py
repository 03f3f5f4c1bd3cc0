"""The system tier again, with container-init built with the address and undefined-behaviour sanitizers in place of its own.

It lies over the installed file by a bind in a mount namespace of the run: the product knows nothing of it. A finding
ends container-init with 99 and its text on the container's stderr, so the test that met it fails.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.kernel.initkit import PROGRAM, SANITIZED, TREE, build

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system

# What reaches every operation; `make sanitize` runs all of the tier.
PARTS = ("run", "process", "mounts", "namespaces", "devices", "console", "hooks", "exec", "attributes", "net_devices", "live_mounts",
         "rootless")  # fmt: skip
SETUP = 'mount --make-rprivate / && mount --bind "$0" "$1" && cmp -s "$0" "$1" && shift && exec "$@"'
# It looks at the files that container-init maps, and here those of the sanitizers are among them.
LEFT_OUT = "not test_init_runs_from_a_sealed_copy"


@pytest.mark.slow
def test_the_system_tier_with_sanitizers(tmp_path: Path) -> None:
    """R1, S1: what the tests let container-init do touches no memory that is not its own and overflows nothing."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    build("sanitize")
    files = [str(TREE / f"tests/system/test_{part}.py") for part in PARTS]
    options = ["-q", "-m", "not slow", "-k", LEFT_OUT, "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "inner")]
    command = ["unshare", "-m", "sh", "-c", SETUP, str(SANITIZED), str(PROGRAM), sys.executable, "-m", "pytest", *options, *files]
    done = subprocess.run(command, cwd=TREE, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 400
