"""Fixtures of the callers: the program under test, the image, and a time limit for every test."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conformance.callers.archive import make_archive
from conformance.callers.stand import CGROUPS, Missing, Stand
from tests.limits import ended_after, seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).resolve().parent.parent.parent
LIMIT_S = 300
SLOW_LIMIT_S = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here is of the conformance tier."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.conformance)


@pytest.fixture(autouse=True)
def limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that takes longer than any of them should."""
    with ended_after(seconds_of(request, limit_s=LIMIT_S, slow_limit_s=SLOW_LIMIT_S)):
        yield


@pytest.fixture(scope="session")
def program() -> str:
    """Path of the `pyruntime` under test: $PYRUNTIME, else what `make build` made. Without it nothing is tested."""
    for path in (os.environ.get("PYRUNTIME", ""), str(REPOSITORY / "build/pyruntime")):
        if path and Path(path).exists():
            return str(Path(path).resolve())
    pytest.fail("no pyruntime program: run `make build`, or name one in PYRUNTIME")


@pytest.fixture(scope="session")
def archive() -> bytes:
    """The image of busybox as a docker archive."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox (Debian: busybox-static)")
    return make_archive(busybox)


@pytest.fixture(scope="session")
def make_stand(archive: bytes) -> Iterator[Callable[..., Stand]]:
    """`make_stand(name, *programs)` gives a room, with the image at /run/image.tar; skips where a program is missing."""
    made: list[Stand] = []

    def make(name: str, *programs: str) -> Stand:
        for needed in ("unshare", "nsenter", *programs):
            if shutil.which(needed) is None:
                pytest.skip(f"needs {needed}")
        if not os.access(CGROUPS / "pids", os.W_OK) and not os.access(CGROUPS / "cgroup.procs", os.W_OK):
            pytest.skip("needs a writable cgroup tree")
        try:
            made.append(Stand(f"pt{os.getpid()}x{int(time.monotonic() * 1000) % 100000}{name}"))
        except Missing as missing:
            pytest.skip(f"needs {missing}")
        made[-1].write("/run/image.tar", archive)
        return made[-1]

    yield make
    for stand in made:
        stand.end()
