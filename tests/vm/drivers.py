"""`runtime` for tests that run with each cgroup driver: a module that imports it overrides the usual fixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.system.leaks import Watch
from tests.system.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Driven(Runtime):
    """The program with a cgroup manager named."""

    manager = "cgroupfs"

    def argv(self, *args: Any) -> list[str]:
        program, *rest = super().argv(*args)
        return [program, "--cgroup-manager", self.manager, *rest]


@pytest.fixture(name="runtime", params=["cgroupfs", "systemd"])
def both_drivers(program: str, own_host: None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """The program with each driver. After the test nothing it made may be left."""
    watch = Watch()
    runtime = Driven(program, tmp_path / "run" / "state")
    runtime.manager = request.param
    yield runtime
    watch.check(runtime)
