"""Fixtures of every tier that starts containers: the program under test, bundles of busybox, and the leak check."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import Bundle, make_rootfs
from tests.system.leaks import Watch
from tests.system.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAMS = (REPOSITORY / ".venv/bin/pyruntime", REPOSITORY / "build/pyruntime")
BUSYBOX = ("/bin/busybox", "/usr/bin/busybox")
CLONE_NEWNS, MS_REC, MS_PRIVATE, MS_SHARED = 0x20000, 0x4000, 1 << 18, 1 << 20
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="session")
def program() -> str:
    """Path of the `pyruntime` under test: $PYRUNTIME, else what `make build` made. Without it nothing is tested."""
    for path in (os.environ.get("PYRUNTIME", ""), *map(str, PROGRAMS)):
        if path and Path(path).exists():
            return path
    pytest.fail("no pyruntime program: run `make build`, or name one in PYRUNTIME")


@pytest.fixture(scope="session")
def own_host() -> None:
    """This process gets a mount namespace of its own and adopts orphans, so that every leak can be seen exactly.

    "/" is shared there, as systemd has it: a mount that leaves a container is seen as well.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    made = libc.unshare(CLONE_NEWNS) == 0
    made = made and libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
    made = made and libc.mount(b"none", b"/", None, MS_REC | MS_SHARED, None) == 0
    if not made:
        pytest.skip(f"needs a mount namespace of its own: {os.strerror(ctypes.get_errno())}")
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@pytest.fixture(scope="session")
def rootfs_master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of busybox alone, for bundles to copy."""
    busybox = next((path for path in BUSYBOX if Path(path).exists()), None)
    if busybox is None:
        pytest.skip("needs busybox (Debian: busybox-static)")
    return make_rootfs(tmp_path_factory.mktemp("master") / "rootfs", busybox)


@pytest.fixture
def make_bundle(tmp_path: Path, rootfs_master: Path) -> Callable[..., Bundle]:
    """`make_bundle(script or args, {dotted key: value})` gives a bundle that differs from the base in that alone."""
    made = 0

    def make(program: str | list[str] = "true", changes: dict[str, Any] | None = None, *, name: str = "") -> Bundle:
        nonlocal made
        made += 1
        path = tmp_path / (name or f"bundle{made}")
        path.mkdir()
        shutil.copytree(rootfs_master, path / "rootfs", symlinks=True, copy_function=os.link)
        return Bundle(path, program, changes or {})

    return make


@pytest.fixture
def runtime(program: str, own_host: None, tmp_path: Path) -> Iterator[Runtime]:
    """The program with a state root of its own. After the test nothing it made may be left."""
    watch = Watch()
    runtime = Runtime(program, tmp_path / "run" / "state")
    yield runtime
    watch.check(runtime)
