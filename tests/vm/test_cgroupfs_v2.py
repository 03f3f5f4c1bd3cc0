"""cgroup v2 through cgroupfs, on a host that has nothing else: limits seen from inside, and the verbs on them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.system
CGROUP_MOUNT = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
NAMESPACES = [{"type": name} for name in ("pid", "mount", "ipc", "uts", "cgroup")]
LIMITS = {
    "memory": {"limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20},
    "cpu": {"shares": 512, "quota": 50000, "period": 100000, "burst": 10000, "cpus": "0", "mems": "0"},
    "pids": {"limit": 64},
    "unified": {"memory.high": "60000000", "memory.oom.group": "1"},
}
EXPECTED = {
    "memory.max": str(64 << 20), "memory.low": str(32 << 20), "memory.swap.max": str(32 << 20), "cpu.weight": "59",
    "cpu.max": "50000 100000", "cpu.max.burst": "10000", "cpuset.cpus": "0", "cpuset.mems": "0", "pids.max": "64",
    "memory.high": "59998208", "memory.oom.group": "1",
}  # fmt: skip


@pytest.mark.representative
def test_limits_seen_from_inside(runtime, make_bundle):
    bundle = make_bundle(f"cd /sys/fs/cgroup && grep -H . {' '.join(EXPECTED)}; cat /proc/self/cgroup",
                         {"linux.namespaces": NAMESPACES, "linux.resources": LIMITS})
    bundle.add_mounts(CGROUP_MOUNT)
    lines = runtime.look(bundle).splitlines()
    assert lines.pop() == "0::/"
    assert dict(line.split(":", 1) for line in lines) == EXPECTED


def test_pause_kill_delete(runtime, make_bundle):
    bundle = make_bundle(["sleep", "1000"], {"linux.cgroupsPath": "/pyruntime-vm/pause"})
    with runtime.container(bundle) as container:
        path = Path("/sys/fs/cgroup/pyruntime-vm/pause")
        container.ok("pause")
        assert container.status == "paused"
        assert "frozen 1" in (path / "cgroup.events").read_text()
        container.ok("resume")
        assert container.status == "running"
        container.ok("pause")
        container.stop()
        container.wait_status("stopped")
    assert not path.parent.exists()


@pytest.mark.representative
def test_device_filter(runtime, make_bundle):
    script = ("mknod /tmp/kmsg c 1 11; head -c1 /tmp/kmsg >/dev/null 2>&1 && echo kmsg; "
              "mknod /tmp/full c 1 7; head -c1 /tmp/full >/dev/null && echo full")
    rules = [{"allow": False, "access": "rwm"}]
    assert runtime.look(make_bundle(script, {"linux.resources.devices": rules})) == "full"
    assert runtime.look(make_bundle(script)) == "full"  # no rules: only what every container may use
    allowed = [*rules, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]
    assert runtime.look(make_bundle(script, {"linux.resources.devices": allowed})) == "kmsg\nfull"
