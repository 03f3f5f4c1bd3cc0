"""A hybrid host under systemd, as many still are: the systemd driver on v1, and limits of either driver."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.bundle import namespaces
from tests.system.test_lifecycle import running, test_a_whole_life, test_kill_all, test_kill_paused_dies
from tests.system.test_verbs import test_oom_event
from tests.vm.drivers import both_drivers

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

__all__ = ["both_drivers", "running", "test_a_whole_life", "test_kill_all", "test_kill_paused_dies", "test_oom_event"]

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not Path("/sys/fs/cgroup/pids/cgroup.procs").exists(), reason="needs cgroup v1: make test-vm ARGS=-1"),
]
V1_TOO = True
LIMITS = {
    "memory": {"limit": 64 << 20, "reservation": 32 << 20}, "pids": {"limit": 64},
    "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"}, "devices": [{"allow": False, "access": "rwm"}],
}  # fmt: skip
EXPECTED = {
    "memory": {"memory.limit_in_bytes": str(64 << 20), "memory.soft_limit_in_bytes": str(32 << 20)},
    "cpu": {"cpu.shares": "512", "cpu.cfs_quota_us": "50000"}, "cpuset": {"cpuset.cpus": "0"}, "pids": {"pids.max": "64"},
}  # fmt: skip


def test_limits_in_every_tree(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Written, changed, kept when systemd reads its configuration again; gone with the container."""
    with runtime.container(make_bundle(["sleep", "1000"], {"linux.resources": LIMITS})) as container:
        paths = {name: Path(path) for name, path in container.saved()["cgroup_paths"].items()}
        found = {name: {file: (paths[name] / file).read_text().strip() for file in files} for name, files in EXPECTED.items()}
        assert found == EXPECTED
        for path in paths.values():
            assert str(container.pid) in (path / "cgroup.procs").read_text().split()
        assert "a *:* rwm" not in (paths["devices"] / "devices.list").read_text()
        container.ok("update", "--memory", "33554432", "--pids-limit", "32")
        if runtime.manager == "systemd":  # type: ignore[attr-defined]
            subprocess.run(["systemctl", "daemon-reload"], check=True)
        assert (paths["memory"] / "memory.limit_in_bytes").read_text().strip() == str(32 << 20)
        assert (paths["pids"] / "pids.max").read_text().strip() == "32"
        container.ok("pause")
        assert container.status == "paused"
        container.ok("resume")
        assert container.exec("true").code == 0
    assert [path for path in paths.values() if path.exists()] == []


@pytest.mark.parametrize("own", [True, False], ids=["namespace", "no namespace"])
def test_trees_from_inside(runtime: Runtime, make_bundle: MakeBundle, own: bool) -> None:
    bundle = make_bundle("cat /sys/fs/cgroup/pids/pids.max", {"linux.resources": {"pids": {"limit": 17}},
                         "linux.namespaces": namespaces(*(["cgroup"] if own else []))})  # fmt: skip
    bundle.add_mounts({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]})
    assert runtime.look(bundle) == "17"


def test_a_sub_cgroup_in_every_tree(runtime: Runtime, make_bundle: MakeBundle) -> None:
    changes = {"annotations": {"run.oci.systemd.subgroup": "inner"}, "linux.resources": {"pids": {"limit": 17}}}
    with runtime.container(make_bundle(["sleep", "1000"], changes)) as container:
        path = Path(container.saved()["cgroup_paths"]["pids"])
        assert (path.name == "inner") == (runtime.manager == "systemd")  # type: ignore[attr-defined]
        assert (path / "pids.max").read_text() == "17\n"
