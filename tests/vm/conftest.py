"""These tests run in the guest of tools/test-vm; elsewhere they are skipped, for the layout there is another one.

A guest with cgroup v1 (test-vm -1) runs the modules that say `V1_TOO`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.layouts import note
from tests.limits import ended_after

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 600  # software emulation is some twenty times slower, on a busy machine slower still


def in_guest() -> bool:
    """systemd as init, root, and the job of vm-run."""
    return os.geteuid() == 0 and Path("/run/systemd/system").exists() and Path("/.ctl/go").exists()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note the layout while the fixtures are there."""
    yield
    note(item)


@pytest.fixture(autouse=True)
def guest(request: pytest.FixtureRequest) -> Iterator[None]:
    """Skips outside of the guest; inside, fails a test that hangs."""
    if not in_guest():
        pytest.skip("needs the virtual machine: make test-vm")
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists() and not getattr(request.module, "V1_TOO", False):
        pytest.skip("needs cgroup v2 alone")
    with ended_after(LIMIT_S):
        yield
