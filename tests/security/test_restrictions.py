"""What a container may not do, tried by the container: its own limits from inside, and whatever enters it afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import namespaces

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

DOCKER_CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
    ).split()
]
# Everything of /proc/PID/status that a process could have more of than its container.
BOUNDS = "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):' /proc/self/status"
SAME = (
    BOUNDS + "; cut -d: -f2- /proc/self/cgroup; cat /proc/self/limits /proc/self/oom_score_adj; umask; "
    "for n in cgroup ipc mnt net pid user uts time; do readlink /proc/self/ns/$n; done; wc -c < /proc/version; "
    "echo x > /proc/sys/kernel/domainname; cat /proc/self/attr/current 2>/dev/null | tr -d '\\0'"
)
CLOSED = """
umask 0
find /sys/fs/cgroup -type f \\( -name release_agent -o -name notify_on_release -o -name 'devices.*' -o -name 'cgroup.*' \
    -o -name tasks -o -name '*.max' -o -name '*limit*' \\) | sort | while read -r file; do
  for word in 0 1 'a *:* rwm' max /bin/sh; do ( echo "$word" > $file ) 2>/dev/null && echo "wrote $file"; done
done
find /sys/fs/cgroup -type d | head -40 | while read -r folder; do mkdir $folder/evil 2>/dev/null && echo "made $folder/evil"; done
mkdir -p /tmp/m
for type in 'cgroup -o rdma' 'cgroup -o memory' 'cgroup -o none,name=evil' cgroup2; do
  mount -t $type evil /tmp/m 2>/dev/null && echo "mounted $type"
  unshare -U -r -C -m mount -t $type evil /tmp/m 2>/dev/null && echo "mounted $type in a user namespace"
done
mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo remounted
umount /sys/fs/cgroup 2>/dev/null && echo unmounted
echo tried
"""


def capabilities(names: list[str]) -> dict[str, Any]:
    """The sets that Docker sets."""
    return {f"process.capabilities.{name}": names for name in ("bounding", "effective", "permitted")}


def test_exec_has_no_more_than_the_container(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S26, S17, S31, S33, S35: ids, capabilities, filter, limits, cgroup, label, namespaces, masks and read-only paths."""
    changes = {
        **capabilities(DOCKER_CAPABILITIES),
        "process.noNewPrivileges": True,
        "process.rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        "process.oomScoreAdj": 321,
        "process.user": {"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o27},
        "linux.seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["keyctl"], "action": "SCMP_ACT_ERRNO"}]},
        "linux.resources": {"pids": {"limit": 50}},
        "linux.maskedPaths": ["/proc/version"],
        "linux.readonlyPaths": ["/proc/sys"],
    }
    script = f"( {SAME} ) > /tmp/init 2>&1; mv /tmp/init /tmp/done; exec sleep 600"
    bundle = make_bundle(script, {**changes, "linux.namespaces": namespaces("network", "cgroup")})
    (bundle.rootfs / "tmp").chmod(0o1777)
    with runtime.container(bundle) as container:
        container.exec("sh", "-c", "until [ -e /tmp/done ]; do sleep 0.01; done")
        init = (bundle.rootfs / "tmp/done").read_text()
        done = container.exec("sh", "-c", f"( {SAME} ) 2>&1")
    assert "Seccomp:\t2" in init
    assert "CapEff:\t0000000000000000" in init
    assert "can't create /proc/sys/kernel/domainname" in init
    assert done.out == init


@pytest.mark.parametrize("own", [False, True], ids=["host's namespace", "own namespace"])
def test_cgroups_from_inside(runtime: Runtime, make_bundle: MakeBundle, *, own: bool) -> None:
    """S32, CVE-2022-0492, CVE-2023-25809: no release_agent, no rule and no limit is written, no hierarchy mounted anew."""
    mounts = (
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid", "noexec", "nodev"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
    )
    changes = {**capabilities(DOCKER_CAPABILITIES), "linux.namespaces": namespaces(*(["cgroup"] if own else []))}
    agents = {path: path.read_text() for path in Path("/sys/fs/cgroup").glob("*/release_agent")}
    out = runtime.look(make_bundle(CLOSED, changes).add_mounts(*mounts))
    assert out == "tried"
    assert {path: path.read_text() for path in agents} == agents


@pytest.mark.parametrize("path", ["/", "/etc/..", "/link"])
def test_a_restriction_of_the_whole_root(runtime: Runtime, make_bundle: MakeBundle, path: str) -> None:
    """S5: the root by any name is read-only when readonlyPaths says so, volumes are not; a mask that would hide nothing fails."""
    script = "echo x >/file; echo x >/dev/file && echo written"
    bundle = make_bundle(script, {"linux.readonlyPaths": [path]})
    bundle.replace("link", "/")
    result = runtime.run(bundle)
    assert result.out == "written\n"
    assert "can't create /file: Read-only" in result.err
    bundle.change({"linux.readonlyPaths": [], "linux.maskedPaths": [path]})
    result = runtime.run(bundle)
    assert (result.code, result.field, result.out) == (1, "/linux/maskedPaths/0", "")
    assert "hint: the root itself cannot be masked" in result.err


@pytest.mark.parametrize("name", ["cgroup.procs", "{id}/cgroup.procs", "{id}/tasks", "/{id}/cgroup.procs/below", "cgroup.procs/../tasks"])
def test_a_cgroup_with_the_name_of_a_file(runtime: Runtime, make_bundle: MakeBundle, name: str) -> None:
    """R2, R4: refused, and nothing is left that `delete --force` could not remove."""
    container = runtime.new_id()
    bundle = make_bundle("true", {"linux.cgroupsPath": name.format(id=container)})
    result = runtime("run", "-b", bundle.path, container)
    assert (result.code, result.field) == (1, "/linux/cgroupsPath"), result
    assert "a file has that name" in result.message
    assert runtime.ids() == []
    assert runtime("delete", "--force", container).code == 0
