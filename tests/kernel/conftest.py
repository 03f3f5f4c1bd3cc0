"""Fixtures of the tests that drive container-init itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernel.initkit import OPEN, PROGRAM, SANITIZED, build

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
