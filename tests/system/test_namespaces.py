"""Namespaces: all eight, new or by path, id maps and what is refused (contract 4.5; S36, S37)."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import NAMESPACES, Bundle, namespaces
from tests.system.runtime import open_pid, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

FILES = {
    "pid": "pid",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
    "network": "net",
    "cgroup": "cgroup",
    "user": "user",
    "time": "time",
}
UIDS = [{"containerID": 0, "hostID": 100000, "size": 65536}]
GIDS = [{"containerID": 0, "hostID": 200000, "size": 65536}]
USER: dict[str, Any] = {"linux.namespaces": namespaces("user"), "linux.uidMappings": UIDS, "linux.gidMappings": GIDS}
LOOK = "for n in pid mnt ipc uts net cgroup user time; do readlink /proc/self/ns/$n; done"


def inode(pid: int | str, kind: str) -> str:
    """`pid:[4026531836]` of a process."""
    return os.readlink(f"/proc/{pid}/ns/{FILES[kind]}")


def owned(bundle: Bundle, uid: int = 100000, gid: int = 200000) -> Bundle:
    """The rootfs belongs to the container's root, and is a tree it can reach."""
    for top, folders, files in os.walk(bundle.rootfs):
        for name in [*folders, *files]:
            if not os.path.samefile(os.path.join(top, name), bundle.rootfs / "bin/busybox"):
                os.chown(os.path.join(top, name), uid, gid, follow_symlinks=False)
    os.chown(bundle.rootfs, uid, gid)
    return bundle


@pytest.mark.parametrize("kind", FILES)
def test_new(runtime: Runtime, make_bundle: MakeBundle, kind: str) -> None:
    """One type more (or the base's): new; every type that is not named is the caller's."""
    extra = [kind] if kind not in NAMESPACES else []
    changes = (
        {**USER, "linux.namespaces": namespaces("user")} if kind == "user" else {"linux.namespaces": namespaces(*extra)}
    )
    bundle = make_bundle(LOOK, changes)
    if kind == "user":
        owned(bundle)
    inside = dict(line.split(":") for line in runtime.look(bundle).splitlines())
    for name, file in FILES.items():
        fresh = name in (*NAMESPACES, *extra)
        assert (inside[file] != inode("self", name).split(":")[1]) == fresh, name


@pytest.mark.parametrize("kind", NAMESPACES)
def test_inherited(runtime: Runtime, make_bundle: MakeBundle, kind: str) -> None:
    """A type of the base left out: the caller's."""
    if kind == "mount":
        pytest.skip("has a test of its own")
    kept = [entry for entry in namespaces() if entry["type"] != kind]
    look = runtime.look(make_bundle(LOOK, {"linux.namespaces": kept}))
    assert inode("self", kind) in look.splitlines()


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "mount"])
def test_joined(runtime: Runtime, make_bundle: MakeBundle, kind: str) -> None:
    """By path: that of a running container."""
    first = make_bundle("sleep 600", {**USER, "linux.namespaces": namespaces("user", "network", "cgroup", "time")})
    with runtime.container(owned(first)) as container:
        path = f"/proc/{container.pid}/ns/{FILES[kind]}"
        paths = {kind: path}
        if kind != "user":  # what belongs to a user namespace is joined with it
            paths["user"] = f"/proc/{container.pid}/ns/user"
        bundle = make_bundle("readlink /proc/self/ns/" + FILES[kind], {"linux.namespaces": namespaces(**paths)})
        assert runtime.look(owned(bundle)) == inode(container.pid, kind)


def test_joined_mount_namespace(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The rootfs is looked up there; what the container mounts stays in that namespace."""
    holder = subprocess.Popen(["unshare", "-m", "sleep", "60"])
    try:
        # unshare makes the mounts private after it has made the namespace, and then runs the program
        wait_until(lambda: Path(f"/proc/{holder.pid}/cmdline").read_bytes().startswith(b"sleep\0"), "the namespace")
        assert inode(holder.pid, "mount") != inode("self", "mount")
        bundle = make_bundle(
            "readlink /proc/self/ns/mnt; ls /", {"linux.namespaces": namespaces(mount=f"/proc/{holder.pid}/ns/mnt")}
        )
        out = runtime.look(bundle).splitlines()
        assert out[0] == inode(holder.pid, "mount")
        assert "bin" in out
    finally:
        holder.kill()
        holder.wait()


def test_joined_pid_namespace(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """init is a child there, and SIGKILL ends it without the other container."""
    with runtime.container(make_bundle("sleep 600")) as one:
        changes = {"linux.namespaces": namespaces(pid=f"/proc/{one.pid}/ns/pid")}
        with runtime.container(make_bundle("echo $$; sleep 600 & wait", changes)) as two:
            two.wait_output("\n")
            assert int(two.output()) > 1
            assert "sleep" in one.look("ps -o args")
            two.ok("kill", "KILL")
            two.wait_status("stopped")
            assert one.status == "running"


def test_no_mount_namespace(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The root by chroot; mounts are the caller's and go away at the end (contract 4.5)."""
    kept = [entry for entry in namespaces() if entry["type"] != "mount"]
    bundle = make_bundle("ls /; readlink /proc/self/ns/mnt; test -c /dev/null && echo null", {"linux.namespaces": kept})
    out = runtime.look(bundle).splitlines()
    assert "bin" in out
    assert out[-2:] == [inode("self", "mount"), "null"]
    assert str(bundle.rootfs) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("field", ["maskedPaths", "readonlyPaths"])
def test_no_mount_namespace_no_masks(runtime: Runtime, make_bundle: MakeBundle, field: str) -> None:
    """Refused: a mask would reach the host."""
    kept = [entry for entry in namespaces() if entry["type"] != "mount"]
    result = runtime.run(make_bundle("true", {"linux.namespaces": kept, f"linux.{field}": ["/proc/kcore"]}))
    assert (result.code, result.field.startswith(f"/linux/{field}")) == (1, True), result


ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "hostname",
        {"hostname": "inner.example"},
        "hostname; cat /proc/sys/kernel/hostname",
        "inner.example\ninner.example",
    ),
    ("domainname", {"domainname": "example.org"}, "cat /proc/sys/kernel/domainname", "example.org"),
    (
        "own network: lo is up",
        {"linux.namespaces": namespaces("network")},
        "ip -o link | wc -l; ip -o link show lo | grep -c 'LOOPBACK,UP'; ip -o addr show lo | grep -c 127.0.0.1/8",
        "1\n1\n1",
    ),
    (
        "own cgroup: root is /",
        {"linux.namespaces": namespaces("cgroup")},
        "cut -d: -f3 /proc/self/cgroup | sort -u",
        "/",
    ),
    ("own pid: pid 1", {}, "echo $$", "1"),
    (
        "time offsets",
        {
            "linux.namespaces": namespaces("time"),
            "linux.timeOffsets": {"boottime": {"secs": 1000000, "nanosecs": 5}, "monotonic": {"secs": -5}},
        },
        "cat /proc/self/timens_offsets | tr -s ' ' '\\t'; test $(cut -d. -f1 /proc/uptime) -gt 1000000 && echo shifted",
        "monotonic\t-5\t0\nboottime\t1000000\t5\nshifted",
    ),
]


@pytest.mark.parametrize(("changes", "script", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_from_inside(
    runtime: Runtime, make_bundle: MakeBundle, changes: dict[str, Any], script: str, expected: str
) -> None:
    """What a new namespace looks like."""
    host = os.uname()
    assert runtime.look(make_bundle(script, changes)) == expected
    assert os.uname() == host


USER_ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "maps exactly",
        {},
        "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' ' | cut -c2-",
        "0 100000 65536\n0 200000 65536",
    ),
    (
        "several lines",
        {"linux.uidMappings": [*UIDS, {"containerID": 70000, "hostID": 400000, "size": 10}]},
        "wc -l </proc/self/uid_map",
        "2",
    ),
    ("root inside", {}, "id -u; id -g; stat -c %u:%g /", "0\n0\n0:0"),
    ("a user", {"process.user.uid": 1000, "process.user.gid": 1000}, "id -u; cat /proc/self/setgroups", "1000\nallow"),
    ("groups", {"process.user.additionalGids": [7, 8]}, "grep Groups /proc/self/status", "Groups:\t7 8 "),
    (
        "devices are the host's",
        {},
        "echo x >/dev/null; head -c1 /dev/zero | wc -c; stat -c '%t,%T' /dev/full",
        "1\n1,7",
    ),
    ("own network", {"linux.namespaces": namespaces("user", "network")}, "ip -o link show lo | grep -c UP", "1"),
    ("own cgroup", {"linux.namespaces": namespaces("user", "cgroup")}, "cut -d: -f3 /proc/self/cgroup | sort -u", "/"),
    (
        "own time",
        {"linux.namespaces": namespaces("user", "time"), "linux.timeOffsets": {"boottime": {"secs": 7}}},
        "grep -c 'boottime *7' /proc/self/timens_offsets",
        "1",
    ),
    ("hostname", {"hostname": "mapped"}, "hostname", "mapped"),
    (
        "masks",
        {"linux.maskedPaths": ["/proc/version", "/proc/fs"], "linux.readonlyPaths": ["/proc/sys"]},
        "wc -c </proc/version; ls /proc/fs | wc -l; grep ' /proc/sys ' /proc/self/mountinfo | grep -c ' ro,'",
        "0\n0\n1",
    ),
    (
        "sysctl",
        {"linux.namespaces": namespaces("user", "network"), "linux.sysctl": {"net.ipv4.ip_forward": "1"}},
        "cat /proc/sys/net/ipv4/ip_forward",
        "1",
    ),
    ("readonly root", {"root.readonly": True}, "touch /x 2>&1 | grep -c Read-only", "1"),
    (
        "capabilities are whole inside",
        {
            "process.capabilities": {
                "bounding": ["CAP_SYS_ADMIN"],
                "permitted": ["CAP_SYS_ADMIN"],
                "effective": ["CAP_SYS_ADMIN"],
            }
        },
        "grep CapEff /proc/self/status",
        "CapEff:\t0000000000200000",
    ),
]


@pytest.mark.parametrize(
    ("changes", "script", "expected"), [row[1:] for row in USER_ROWS], ids=[row[0] for row in USER_ROWS]
)
def test_user_namespace(
    runtime: Runtime, make_bundle: MakeBundle, changes: dict[str, Any], script: str, expected: str
) -> None:
    """With id maps: the same looks from inside."""
    assert runtime.look(owned(make_bundle(script, {**USER, **changes}))) == expected


def test_user_namespace_from_outside(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Ids on the host are the mapped ones, exec's too."""
    with runtime.container(owned(make_bundle("sleep 600", USER))) as container:
        status = Path(f"/proc/{container.pid}/status").read_text()
        assert "Uid:\t100000\t100000\t100000\t100000" in status
        assert "Gid:\t200000\t200000\t200000\t200000" in status
        assert container.look("id -u; touch /tmp/made; readlink /proc/self/ns/user").splitlines()[0] == "0"
        there = (container.bundle.rootfs / "tmp/made").stat()
        assert (there.st_uid, there.st_gid) == (100000, 200000)


def test_rootfs_behind_a_closed_folder(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """The container's root may have no way to the rootfs's path; it needs none."""
    bundle = owned(make_bundle("echo in", USER))
    tmp_path.chmod(0o700)
    assert runtime.look(bundle) == "in"


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "unknown type",
        {"linux.namespaces": [*namespaces(), {"type": "foo"}]},
        'namespace {"foo" ""} does not exist',
        "/linux/namespaces/4",
    ),
    (
        "duplicate",
        {"linux.namespaces": [*namespaces(), {"type": "pid"}]},
        "malformed spec file: duplicated ns",
        "/linux/namespaces/4",
    ),
    ("relative path", {"linux.namespaces": namespaces(network="proc/self/ns/net")}, "", "/linux/namespaces/4"),
    (
        "missing path",
        {"linux.namespaces": namespaces(network="/nope")},
        "no such file or directory",
        "/linux/namespaces/4",
    ),
    ("of another type", {"linux.namespaces": namespaces(network="/proc/self/ns/uts")}, "", "/linux/namespaces/4"),
    ("no namespace at all", {"linux.namespaces": namespaces(network="/etc/passwd")}, "", "/linux/namespaces/4"),
    ("a FIFO is not waited for", {"linux.namespaces": namespaces(network="FIFO")}, "", "/linux/namespaces/4"),
    (
        "user without maps",
        {"linux.namespaces": namespaces("user")},
        "user namespaces enabled, but no namespace path to join nor mappings to apply specified",
        "/linux/namespaces/4",
    ),
    ("maps without user", {"linux.uidMappings": UIDS, "linux.gidMappings": GIDS}, "", "/linux/uidMappings"),
    (
        "map of size 0",
        {**USER, "linux.uidMappings": [{"containerID": 0, "hostID": 1, "size": 0}]},
        "",
        "/linux/uidMappings/0",
    ),
    (
        "root unmapped",
        {**USER, "linux.uidMappings": [{"containerID": 1, "hostID": 100000, "size": 10}]},
        "",
        "/linux/uidMappings",
    ),
    (
        "uid unmapped",
        {**USER, "process.user.uid": 70000},
        "cannot setuid to unmapped uid 70000 in user namespace",
        "/process/user/uid",
    ),
    (
        "gid unmapped",
        {**USER, "process.user.gid": 70000},
        "cannot setgid to unmapped gid 70000 in user namespace",
        "/process/user/gid",
    ),
    ("group unmapped", {**USER, "process.user.additionalGids": [70000]}, "", "/process/user/additionalGids"),
    (
        "overlapping maps",
        {**USER, "linux.uidMappings": [*UIDS, {"containerID": 5, "hostID": 500000, "size": 1}]},
        "",
        "/linux/uidMappings",
    ),
    (
        "hostname without uts",
        {"hostname": "x", "linux.namespaces": [e for e in namespaces() if e["type"] != "uts"]},
        "unable to set hostname without a private UTS namespace",
        "/hostname",
    ),
    ("time offsets without time", {"linux.timeOffsets": {"boottime": {"secs": 1}}}, "", "/linux/timeOffsets"),
    (
        "time offsets with a path",
        {"linux.namespaces": namespaces(time="/proc/self/ns/time"), "linux.timeOffsets": {"boottime": {"secs": 1}}},
        "",
        "/linux/timeOffsets",
    ),
    (
        "offsets below zero",
        {"linux.namespaces": namespaces("time"), "linux.timeOffsets": {"boottime": {"secs": -1 << 40}}},
        "",
        "/linux/timeOffsets",
    ),
    (
        "unknown clock",
        {"linux.namespaces": namespaces("time"), "linux.timeOffsets": {"realtime": {"secs": 1}}},
        "",
        "/linux/timeOffsets/realtime",
    ),
]


@pytest.mark.parametrize(("changes", "text", "field"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(
    runtime: Runtime, make_bundle: MakeBundle, changes: dict[str, Any], text: str, field: str, tmp_path: Path
) -> None:
    """One line, its field, nothing left (S36, S37)."""
    bundle = make_bundle("true", changes)
    if "FIFO" in str(changes):
        os.mkfifo(tmp_path / "fifo")
        bundle.change({"linux.namespaces": namespaces(network=str(tmp_path / "fifo"))})
    result = runtime.run(owned(bundle))
    assert result.code == 1, result
    assert text in result.message
    assert result.field.startswith(field), result
    assert runtime.ids() == []


# --- sysctl: allow-list by namespace (S34) --------------------------------------------------------------------------
SYSCTLS: list[tuple[dict[str, str], tuple[str, ...], str]] = [
    ({"kernel.msgmax": "4097"}, (), "4097"),
    ({"kernel.shm_rmid_forced": "1"}, (), "1"),
    ({"fs.mqueue.msg_max": "11"}, (), "11"),
    ({"net.ipv4.ip_forward": "1"}, ("network",), "1"),
    ({"net/ipv4/conf/lo/rp_filter": "2"}, ("network",), "2"),
    ({"kernel.domainname": "dom"}, (), "dom"),
]


@pytest.mark.parametrize(("sysctl", "extra", "expected"), SYSCTLS, ids=str)
def test_sysctl(
    runtime: Runtime, make_bundle: MakeBundle, sysctl: dict[str, str], extra: tuple[str, ...], expected: str
) -> None:
    """Set in the container's namespace; the host keeps its own."""
    path = "/proc/sys/" + next(iter(sysctl)).replace(".", "/")
    before = Path(path).read_text() if Path(path).exists() else ""
    bundle = make_bundle(f"cat {path}", {"linux.sysctl": sysctl, "linux.namespaces": namespaces(*extra)})
    assert runtime.look(bundle) == expected
    assert (Path(path).read_text() if Path(path).exists() else "") == before


NOT_SEPARATE = "is not in a separate kernel namespace"
SYSCTLS_REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("vm.swappiness", {}, NOT_SEPARATE),
    ("kernel.core_pattern", {}, NOT_SEPARATE),
    ("kernel.msgmaxx", {}, NOT_SEPARATE),
    ("net.ipv4.ip_forward", {}, NOT_SEPARATE),
    ("net.ipv4.ip_forward", {"linux.namespaces": namespaces(network="/proc/self/ns/net")}, NOT_SEPARATE),
    ("kernel.msgmax", {"linux.namespaces": [e for e in namespaces() if e["type"] != "ipc"]}, NOT_SEPARATE),
    ("user.max_user_namespaces", {}, NOT_SEPARATE),
    ("kernel.hostname", {}, "hostname"),
    ("net.../kernel/core_pattern", {"linux.namespaces": namespaces("network")}, ""),
    ("net/../kernel/core_pattern", {"linux.namespaces": namespaces("network")}, ""),
    ("/net/ipv4/ip_forward", {"linux.namespaces": namespaces("network")}, ""),
    ("", {}, ""),
    ("net.", {"linux.namespaces": namespaces("network")}, ""),
]


@pytest.mark.parametrize(("key", "changes", "text"), SYSCTLS_REFUSED, ids=lambda value: str(value)[:40])
def test_sysctl_refused(
    runtime: Runtime, make_bundle: MakeBundle, key: str, changes: dict[str, Any], text: str
) -> None:
    """Host-wide keys and tricks with slashes: an error, never a write (S34)."""
    path = Path("/proc/sys") / key.replace(".", "/")
    value = path.read_text().strip() if path.is_file() else "1"  # should it be written after all: what is there already
    result = runtime.run(make_bundle("true", {"linux.sysctl": {key: value}, **changes}))
    assert (result.code, text in result.message) == (1, True), result
    assert result.field.startswith("/linux/sysctl")


def test_unshared_network_of_the_caller(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A namespace that is not the runtime's own counts as separate, checked by inode (contract 4.9)."""
    holder = subprocess.Popen(["sleep", "60"], preexec_fn=lambda: ctypes.CDLL(None).unshare(0x40000000))
    try:
        with open_pid(holder.pid):
            changes = {
                "linux.namespaces": namespaces(network=f"/proc/{holder.pid}/ns/net"),
                "linux.sysctl": {"net.ipv4.ip_forward": "1"},
            }
            assert (
                runtime.look(
                    make_bundle("cat /proc/sys/net/ipv4/ip_forward; ip -o link show lo | grep -c ',UP'; true", changes)
                )
                == "1\n0"
            )  # joined: lo stays as it was
    finally:
        holder.kill()
        holder.wait()


def test_no_device_of_a_user_namespace_is_shared_with_the_host(
    runtime: Runtime, make_bundle: MakeBundle, own_host: None
) -> None:
    """Its devices are binds of the host's: what is mounted on one inside must not cover it outside."""
    held = {key: ["CAP_SYS_ADMIN"] for key in ("bounding", "permitted", "effective")}
    script = "mount -o bind /bin/busybox /dev/zero && head -c 4 /dev/zero; grep -c shared: /proc/self/mountinfo; true"
    before = os.stat("/dev/zero")
    out = runtime.look(owned(make_bundle(script, {**USER, "process.capabilities": held})))
    assert out == "\x7fELF0"
    after = os.stat("/dev/zero")
    assert (after.st_rdev, after.st_ino) == (before.st_rdev, before.st_ino)
