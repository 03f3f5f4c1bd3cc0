"""The systemd driver on cgroup v2: the unit and its properties, limits, changes, and the end of it; root and a user."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.system.runtime import wait_until

pytestmark = pytest.mark.system
LIMITS = {
    "memory": {"limit": 64 << 20, "reservation": 32 << 20}, "pids": {"limit": 64},
    "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
}  # fmt: skip
EXPECTED = {"memory.max": str(64 << 20), "memory.low": str(32 << 20), "pids.max": "64", "cpu.weight": "59",
            "cpu.max": "50000 100000", "cpuset.cpus": "0"}  # fmt: skip


def show(unit, *properties):
    words = ["systemctl", "show", unit, *(f"--property={name}" for name in properties)]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in text.splitlines())


def forgotten(unit):
    """systemd forgets a unit that has ended when it has nothing else to do."""
    wait_until(lambda: show(unit, "LoadState") == {"LoadState": "not-found"}, f"{unit} is forgotten")


def no_scope(which):
    """As `forgotten`, for every container's unit in that list."""
    words = ["systemctl", "list-units", which, "pyruntime-*"]
    wait_until(lambda: ".scope" not in subprocess.run(words, capture_output=True, text=True, check=True).stdout, f"none is {which}")


@pytest.fixture
def systemd(runtime):
    """The runtime, called with --systemd-cgroup."""
    before = runtime.argv
    runtime.argv = lambda *args: [before()[0], "--systemd-cgroup", *before(*args)[1:]]
    yield runtime
    runtime.argv = before


@pytest.mark.representative
def test_a_scope_with_limits(systemd, make_bundle):
    annotations = {"org.systemd.property.TimeoutStopSec": "uint64 7", "org.systemd.property.CollectMode": "'inactive-or-failed'"}
    changes = {"linux.resources": LIMITS, "linux.cgroupsPath": "machine-vm.slice:test:one", "annotations": annotations}
    path = Path("/sys/fs/cgroup/machine.slice/machine-vm.slice/test-one.scope")
    with systemd.container(make_bundle(["sleep", "1000"], changes)) as container:
        assert {name: (path / name).read_text().strip() for name in EXPECTED} == EXPECTED
        assert str(container.pid) in (path / "cgroup.procs").read_text().split()
        found = show("test-one.scope", "MemoryMax", "TasksMax", "Delegate", "Slice", "TimeoutStopUSec", "ActiveState")
        assert found == {"MemoryMax": str(64 << 20), "TasksMax": "64", "Delegate": "yes", "Slice": "machine-vm.slice",
                         "TimeoutStopUSec": "7s", "ActiveState": "active"}  # fmt: skip
        container.ok("update", "--memory", "33554432", "--pids-limit", "32")
        assert show("test-one.scope", "MemoryMax", "TasksMax") == {"MemoryMax": str(32 << 20), "TasksMax": "32"}
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        assert (path / "memory.max").read_text().strip() == str(32 << 20)
        container.ok("pause")
        assert container.status == "paused"
        container.ok("resume")
        assert container.exec("cat", "/proc/self/cgroup").code == 0
    assert not path.exists()
    forgotten("test-one.scope")


def test_delete_takes_the_driver_from_the_state(runtime, systemd, make_bundle):
    """containerd's clean-up call omits --systemd-cgroup (contract 8, row 7)."""
    bundle = make_bundle(["sleep", "1000"])
    name = systemd.new_id()
    assert systemd("create", "-b", bundle.path, name).code == 0
    unit = f"pyruntime-{name}.scope"
    assert show(unit, "ActiveState") == {"ActiveState": "active"}
    words = [word for word in systemd.argv("delete", "--force", name) if word != "--systemd-cgroup"]
    assert subprocess.run(words, check=False).returncode == 0
    forgotten(unit)


def test_run_ends_without_a_unit(systemd, make_bundle):
    result = systemd.run(make_bundle("cat /proc/self/cgroup; exit 7"))
    assert result.code == 7
    no_scope("--all")


def test_an_oom_leaves_no_failed_unit(systemd, make_bundle):
    changes = {"linux.resources": {"memory": {"limit": 16 << 20, "swap": 16 << 20}}}
    result = systemd.run(make_bundle("dd if=/dev/zero of=/dev/null bs=64M count=1", changes))
    assert result.code != 0
    no_scope("--failed")


@pytest.mark.parametrize("path", ["/a/b", "a:b"])
def test_a_path_of_the_other_driver(systemd, make_bundle, path):
    result = systemd.run(make_bundle("true", {"linux.cgroupsPath": path}))
    assert (result.code, result.field) == (1, "/linux/cgroupsPath"), result
    assert "slice:prefix:name" in result.message


def test_a_property_that_systemd_refuses(systemd, make_bundle):
    result = systemd.run(make_bundle("true", {"annotations": {"org.systemd.property.NoSuchThing": "true"}}))
    assert result.code == 1
    assert "unable to start unit" in result.message
    assert systemd.ids() == []


def test_a_user_s_own_instance(program, make_bundle, tmp_path, record_property):
    """uid 1000, whose manager runs; limits of delegated controllers, below its own slice."""
    record_property("layout", "rootless")
    subprocess.run(["loginctl", "enable-linger", "tester"], check=True)
    subprocess.run(["systemctl", "start", "user@1000.service"], check=True)
    changes = {
        "linux.namespaces": [{"type": name} for name in ("pid", "mount", "user")],
        "linux.uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
        "linux.gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
        "linux.resources": {"memory": {"limit": 32 << 20}, "pids": {"limit": 20}},
    }
    bundle = make_bundle("cat /proc/self/cgroup", changes)
    folder = Path(bundle.path)
    subprocess.run(["chown", "-R", "1000:1000", folder], check=True)
    for place in (folder, Path(program).resolve().parent):
        for parent in (place, *place.parents):
            if parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o755)
    # Its runtime folder was mounted after this process had got a mount namespace of its own.
    words = ["nsenter", "-t", "1", "-m", "setpriv", "--reuid=1000", "--regid=1000", "--clear-groups",
             "env", "XDG_RUNTIME_DIR=/run/user/1000", "HOME=/home/tester", program]  # fmt: skip
    call = subprocess.run([*words, "--systemd-cgroup", "run", "-b", folder, "mine"], capture_output=True, text=True, check=False)
    assert call.returncode == 0, call.stderr
    assert "/user@1000.service/user.slice/pyruntime-mine.scope" in call.stdout, call.stdout
    assert json.loads(subprocess.run([*words, "list", "--format", "json"], capture_output=True, check=True).stdout) == []
