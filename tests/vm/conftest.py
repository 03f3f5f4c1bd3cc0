"""These tests run in the guest of tools/test-vm; elsewhere they are skipped, for the layout there is another one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.limits import ended_after

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 240  # software emulation is some twenty times slower


def in_guest() -> bool:
    """Cgroup v2 alone, systemd as init, root, and the job of vm-run."""
    return (os.geteuid() == 0 and Path("/sys/fs/cgroup/cgroup.controllers").exists()
            and Path("/run/systemd/system").exists() and Path("/.ctl/go").exists())


@pytest.fixture(autouse=True)
def guest() -> Iterator[None]:
    """Skips outside of the guest; inside, fails a test that hangs."""
    if not in_guest():
        pytest.skip("needs the virtual machine: make test-vm")
    with ended_after(LIMIT_S):
        yield
