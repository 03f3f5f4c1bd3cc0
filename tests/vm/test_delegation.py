"""cgroup v2 handed to a container: its owner, a cgroup of its own to divide, an exec that follows; both drivers."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import namespaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system
CGROUP = Path("/sys/fs/cgroup")
MOUNT = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw", "nosuid", "noexec", "nodev"]}
MAPS = [{"containerID": 0, "hostID": 70000, "size": 2000}]
GIVEN = set(Path("/sys/kernel/cgroup/delegate").read_text().split()) if Path("/sys/kernel/cgroup/delegate").exists() else set()
LIMITS = {"memory": {"limit": 128 << 20}, "pids": {"limit": 64}}


def annotated(**values: str) -> dict[str, Any]:
    """Annotations of crun's; `__` for a dot, `_` for a dash in `delegate_cgroup`."""
    names = {"subgroup": "run.oci.systemd.subgroup", "delegate": "run.oci.delegate-cgroup"}
    return {"annotations": {names[name]: value for name, value in values.items()}}


@pytest.fixture(params=["cgroupfs", "systemd"])
def driver(runtime: Runtime, request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """The runtime with each driver."""
    before = runtime.argv
    runtime.argv = lambda *args: [before()[0], "--cgroup-manager", request.param, *before(*args)[1:]]  # type: ignore[method-assign]
    yield runtime
    runtime.argv = before  # type: ignore[method-assign]


def place(container: Any) -> Path:
    """The container's cgroup, from its state."""
    return Path(container.saved()["cgroup_paths"][""])


def owners(folder: Path) -> dict[str, int]:
    """uid of the folder ("") and of each file in it."""
    return {"": folder.stat().st_uid} | {path.name: path.stat().st_uid for path in folder.iterdir() if path.is_file()}


@contextmanager
def user_namespace(bundle: Bundle) -> Iterator[Bundle]:
    """The bundle within reach of a mapped root."""
    subprocess.run(["chown", "-R", "70000:70000", bundle.path], check=True)
    for parent in bundle.path.parents:
        if parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o711)
    yield bundle


@pytest.mark.representative
def test_root_of_a_user_namespace_owns_its_cgroup(driver: Runtime, make_bundle: MakeBundle) -> None:
    """The folder and the files that the kernel names, no limit among them; it makes cgroups and divides controllers."""
    script = ("cd /sys/fs/cgroup && mkdir inner && echo $$ > inner/cgroup.procs && echo +memory > cgroup.subtree_control && "
              "cat inner/memory.current >/dev/null && { echo max > memory.max; } 2>/dev/null || echo limited; sleep 1000")  # fmt: skip
    changes = {"linux.namespaces": namespaces("cgroup", "user"), "linux.uidMappings": MAPS, "linux.gidMappings": MAPS,
               "linux.resources": LIMITS}  # fmt: skip
    bundle = make_bundle(script, changes)
    bundle.add_mounts(MOUNT)
    with user_namespace(bundle), driver.container(bundle) as container:
        container.wait_output("limited\n")
        path = place(container)
        found = owners(path)
        assert {name for name, uid in found.items() if uid == 70000} == {"", *(name for name in GIVEN if name in found)}
        assert (path / "memory.max").read_text() == f"{128 << 20}\n"
        # Its own cgroup has controllers to share out now, and so no processes: an exec goes where init is.
        assert container.look("cat /proc/self/cgroup") == "0::/inner"
    assert not path.exists()


@pytest.mark.parametrize(("options", "uid"), [(["rw"], 1000), (["ro"], 0)], ids=str)
def test_the_user_of_the_process_is_the_owner(driver: Runtime, make_bundle: MakeBundle, options: list[str], uid: int) -> None:
    changes = {"linux.namespaces": namespaces("cgroup"), "process.user": {"uid": 1000, "gid": 1000}}
    bundle = make_bundle(["sleep", "1000"], changes)
    bundle.add_mounts({**MOUNT, "options": options})
    with driver.container(bundle) as container:
        found = owners(place(container))
        assert {found[name] for name in ("", "cgroup.procs", "cgroup.subtree_control")} == {uid}
        assert {found[name] for name in ("memory.max", "cgroup.freeze")} == {0}


def test_a_delegated_cgroup(driver: Runtime, make_bundle: MakeBundle) -> None:
    """Below the container's, which has the limits and is the root of the namespace; exec, pause and ps reach it."""
    script = "cat /proc/self/cgroup; echo +pids > /sys/fs/cgroup/cgroup.subtree_control && echo shared; sleep 100"
    changes = {"linux.namespaces": namespaces("cgroup"), "linux.resources": LIMITS, **annotated(delegate="payload/init")}
    bundle = make_bundle(script, changes)
    bundle.add_mounts(MOUNT)
    with driver.container(bundle) as container:
        assert container.wait_output("shared\n") == "0::/payload/init\nshared\n"
        path = place(container)
        assert (path / "cgroup.procs").read_text() == ""
        assert (path / "pids.max").read_text() == "64\n"
        assert str(container.pid) in (path / "payload/init/cgroup.procs").read_text().split()
        assert container.look("cat /proc/self/cgroup") == "0::/payload/init"
        container.ok("pause")
        assert container.status == "paused"
        container.ok("resume")
        assert str(container.pid) in driver("ps", "--format", "json", container.id).out
    assert not path.exists()


@pytest.mark.representative
def test_a_cgroup_below_the_unit(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """run.oci.systemd.subgroup: limits are written there too, the unit keeps them as properties and has no processes."""
    changes = {"linux.resources": LIMITS, **annotated(subgroup="container")}
    with runtime.container(make_bundle(["sleep", "1000"], changes), start=False):
        pass  # another driver than systemd has no unit: ignored
    before = runtime.argv
    runtime.argv = lambda *args: [before()[0], "--systemd-cgroup", *before(*args)[1:]]  # type: ignore[method-assign]
    with runtime.container(make_bundle(["sleep", "1000"], changes)) as container:
        path = place(container)
        scope = CGROUP / "system.slice" / f"pyruntime-{container.id}.scope"
        assert path == scope / "container"
        assert (scope / "cgroup.procs").read_text() == ""
        assert str(container.pid) in (path / "cgroup.procs").read_text().split()
        assert {folder / "pids.max": (folder / "pids.max").read_text() for folder in (scope, path)} == {
            scope / "pids.max": "64\n", path / "pids.max": "64\n"}  # fmt: skip
        container.ok("update", "--pids-limit", "32")
        assert (path / "pids.max").read_text() == (scope / "pids.max").read_text() == "32\n"
        assert container.exec("true").code == 0
    assert not scope.exists()


def test_an_old_systemd(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A host with cgroup v2 that has the tree name=systemd for such containers; without it the error says how."""
    mount = tmp_path / "systemd"
    changes = {"linux.namespaces": namespaces("cgroup"), "linux.resources": LIMITS,
               "annotations": {"run.oci.systemd.force_cgroup_v1": "/sys/fs/cgroup/systemd"}}  # fmt: skip
    bundle = make_bundle("cat /proc/self/cgroup; mkdir /sys/fs/cgroup/systemd/below && echo made", changes)
    bundle.add_mounts({"destination": "/sys/fs/cgroup", "type": "tmpfs", "source": "tmpfs"})
    refused = runtime.run(bundle)
    assert (refused.code, refused.field) == (1, "/annotations/run.oci.systemd.force_cgroup_v1"), refused
    assert "mount -t cgroup -o none,name=systemd" in refused.err
    mount.mkdir()
    subprocess.run(["mount", "-t", "cgroup", "-o", "none,name=systemd", "cgroup", mount], check=True)
    try:
        assert runtime.look(bundle).split("\n")[1:] == ["0::/", "made"]
        assert [path.name for path in mount.iterdir() if path.is_dir()] == []
    finally:
        subprocess.run(["umount", mount], check=True)
