"""Fixtures of the tests of images: registries on loopback, a client and a store for them, other programs' rooms."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from conformance.callers.stand import CGROUPS, Missing, Stand
from pyruntime.image.registry import HostConfig, RegistryClient
from pyruntime.image.store import Store
from tests.fault_proxy import fault_proxy
from tests.limits import ended_after
from tests.registry_stand import QUICK, registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A registry that asks nobody who they are."""
    with registry(tmp_path_factory.mktemp("plain")) as made:
        yield made


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another one, where pushes go."""
    with registry(tmp_path_factory.mktemp("other")) as made:
        yield made


@pytest.fixture
def proxy(plain):
    """A proxy before `plain` that breaks what it is told to."""
    with fault_proxy(plain.host) as made:
        yield made


@pytest.fixture
def client():
    return RegistryClient(HostConfig(certs_folders=()), policy=QUICK)


@pytest.fixture
def store(tmp_path):
    """A store that has to be whole at the end, with nothing left in the making."""
    with Store(str(tmp_path / "store")) as made:
        yield made
        assert made.verify() == []
        assert os.listdir(f"{made.root}/staging") == []


@pytest.fixture
def limit() -> Iterator[None]:
    """Five minutes, for a test that drives other programs."""
    with ended_after(300):
        yield


@pytest.fixture(scope="module")
def room() -> Callable[..., AbstractContextManager[Stand]]:
    """`room(name, *programs)`: a place of their own for programs that want a machine; a skip where they are missing."""

    @contextmanager
    def made(name: str, *programs: str) -> Iterator[Stand]:
        for program in ("unshare", "nsenter", *programs):
            if shutil.which(program) is None:
                pytest.skip(f"needs {program}")
        if not os.access(CGROUPS / "pids", os.W_OK) and not os.access(CGROUPS / "cgroup.procs", os.W_OK):
            pytest.skip("needs a writable cgroup tree")
        try:
            stand = Stand(f"pt{os.getpid()}x{int(time.monotonic() * 1000) % 100000}{name}")
        except Missing as missing:
            pytest.skip(f"needs {missing}")
        try:
            yield stand
        finally:
            stand.end()

    return made


@pytest.fixture
def skopeo(tmp_path):
    """`skopeo copy` and the like with policy and folders of its own; gives its output."""
    program = shutil.which("skopeo")
    if program is None:
        pytest.skip("needs skopeo (Debian: skopeo)")
    (tmp_path / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}

    def call(*words: str) -> str:
        done = subprocess.run([program, "--policy", str(tmp_path / "policy.json"), *words], env=environment, timeout=120,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call
