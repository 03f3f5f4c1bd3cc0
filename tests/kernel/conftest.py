"""Fixtures of the tests that drive container-init itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernel.initkit import OPEN, PROGRAM, SANITIZED, Enter, build

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_run_left() -> Iterator[None]:
    """Whatever a test started and did not end is killed and reaped after it."""
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture(scope="session", params=["plain", "sanitize"])
def init_program(request: pytest.FixtureRequest) -> Path:
    """container-init as shipped, and built with the address and undefined-behaviour sanitizers."""
    if request.param == "plain":
        if not PROGRAM.exists():
            pytest.skip("container-init is not built")
        return PROGRAM
    if shutil.which("gcc") is None:
        pytest.skip("no gcc for the build with sanitizers")
    build("sanitize")
    return SANITIZED


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty directory for a root, beside a directory `outside` that must stay as it is."""
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    return tmp_path / "root"


@pytest.fixture
def enter(init_program: Path, root: Path) -> Enter:
    """Runs steps with `root` as the root."""
    return Enter(init_program, root)
