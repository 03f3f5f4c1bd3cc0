"""Checkpoint and restore as containerd and Podman have them: a counter in a container of theirs goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conformance.callers.conftest import archive, make_stand
from conformance.callers.containerd import Containerd
from conformance.callers.stand import wait_for
from conformance.callers.test_podman import Podman
from tests.vm.counter import COUNTER

if TYPE_CHECKING:
    from collections.abc import Callable

    from conformance.callers.stand import Ended, Stand

    MakeStand = Callable[..., Stand]

__all__ = ["archive", "make_stand"]
pytestmark = pytest.mark.system
WAIT_S = 300  # engines are slow in the guest


def passes(look: Callable[[], Ended], number: int) -> int:
    """Wait until the counter is beyond `number`; what it is then."""

    def beyond() -> int:
        text = look().out.strip()
        return int(text) if text.isdigit() and int(text) > number else 0

    return int(wait_for(beyond, f"counter beyond {number}", WAIT_S))


def test_containerd(make_stand: MakeStand, program: str) -> None:
    """`ctr container checkpoint` puts memory and files into an image, from which another container is made."""
    containerd = Containerd(make_stand("cp", "containerd", "ctr", "containerd-shim-runc-v2", "criu"), program)
    containerd.ok("images", "import", "/run/image.tar")
    with containerd.container("sh", "-c", COUNTER) as name:
        passes(lambda: containerd.exec(name, "cat", "/tmp/count"), 2)
        containerd.ok("container", "checkpoint", "--task", "--rw", "--image", name, "localhost/counter:1", timeout_s=WAIT_S)
        before = passes(lambda: containerd.exec(name, "cat", "/tmp/count"), 0)  # it was left running
    other = containerd.new_id()
    try:
        containerd.ok("container", "restore", "--live", "--rw", other, "localhost/counter:1", timeout_s=WAIT_S)
        assert containerd.status(other) == "RUNNING"
        after = passes(lambda: containerd.exec(other, "cat", "/tmp/count"), before)
        assert after < before + 1000
    finally:
        containerd.remove(other)
    containerd.check()


@pytest.mark.parametrize("exported", [False, True], ids=["", "exported"])
def test_podman(make_stand: MakeStand, program: str, exported: bool) -> None:
    """The container is restored in its place, or as another one from what was exported of it."""
    podman = Podman(make_stand("pc", "podman", "conmon", "criu"), program)
    other = "other" if exported else ""
    with podman.container(do=COUNTER) as name:
        look = lambda which: podman("exec", which, "cat", "/tmp/count")  # noqa: E731 - both names below
        passes(lambda: look(name), 2)
        podman.ok("container", "checkpoint", *(["--export", "/run/counter.tar"] if exported else []), name, timeout_s=WAIT_S)
        assert podman.inspect(name, ".State.Status") == "exited"
        try:
            words = ["--import", "/run/counter.tar", "--name", other] if exported else [name]
            podman.ok("container", "restore", *words, timeout_s=WAIT_S)
            assert podman.inspect(other or name, ".State.Status") == "running"
            passes(lambda: look(other or name), 2)
        finally:
            podman("rm", "-f", "-t", "0", other or name)
    podman.stand.check()
