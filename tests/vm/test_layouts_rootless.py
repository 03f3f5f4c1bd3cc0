"""A plain user's containers on cgroup v2: without a cgroup where none is delegated, in a delegated one where there is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.test_rootless import (
    OWN,
    UID,
    UserRuntime,
    account,
    bundle_of,
    home,
    runtime,
    test_a_range,
    test_a_user_namespace_that_nobody_asked_for,
    test_binds,
    test_life,
    test_one_id,
    user_ns,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle

__all__ = ["account", "bundle_of", "home", "runtime", "test_a_range", "test_a_user_namespace_that_nobody_asked_for",
           "test_binds", "test_life", "test_one_id"]  # fmt: skip

pytestmark = pytest.mark.system
TOP = Path("/sys/fs/cgroup/pt-delegated")


def test_limits_in_a_delegated_tree(runtime: UserRuntime, bundle_of: Callable[..., Bundle]) -> None:
    """As systemd delegates: the folder and three files; the caller sits in a child of it, the container beside that."""
    for parent in (TOP.parent, TOP):
        parent.mkdir(exist_ok=True)
        (parent / "cgroup.subtree_control").write_text("+pids +memory")
    (TOP / "caller").mkdir()
    for path in (TOP, TOP / "caller"):
        for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            os.chown(path / name, UID, UID)
    runtime.joins = (TOP / "caller",)
    changes = user_ns(OWN) | {"linux.resources": {"pids": {"limit": 21}, "memory": {"limit": 32 << 20}}}
    try:
        with runtime.container(bundle_of(["sleep", "1000"], changes)) as container:
            path = Path(container.saved()["cgroup_paths"][""])
            assert path.parent == TOP
            assert (path / "pids.max").read_text() == "21\n"
            container.ok("pause")
            assert container.status == "paused"
            container.ok("resume")
            container.ok("update", "--pids-limit", "15")
            assert (path / "pids.max").read_text() == "15\n"
        assert not path.exists()
    finally:
        (TOP / "caller").rmdir()
        TOP.rmdir()
