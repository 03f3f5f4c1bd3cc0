"""No attack hangs a test: the limits of the system tier hold here too."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.system.conftest import limit

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["limit"]


@pytest.fixture(scope="session")
def own_etc(own_host: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/etc of this process and its children alone: what others of the machine write to theirs does not show in it."""
    copy = tmp_path_factory.mktemp("machine") / "etc"
    subprocess.run(["cp", "-a", "/etc", copy], check=True)
    subprocess.run(["mount", "--bind", copy, "/etc"], check=True)
    return copy
