"""The config.json that `spec` writes: a shell in a root file system, confined as usual (contract 4.12)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "1.3.0"  # of the runtime-spec that this follows
_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
_MASKED = ("acpi", "asound", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi")
_READONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")


def default_config(*, rootless: bool, cgroup_v2: bool, euid: int, egid: int) -> dict[str, Any]:
    """The document, as JSON types in the order in which it is written.

    `rootless`: for a caller without root's rights; container root is then `euid`:`egid` and the host's network is kept.
    `cgroup_v2`: the host has the unified hierarchy alone, so the container gets a cgroup namespace.
    """
    return {
        "ociVersion": VERSION,
        "process": _process(),
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "pyruntime",
        "mounts": _mounts(rootless=rootless),
        "linux": _linux(rootless=rootless, cgroup_v2=cgroup_v2, euid=euid, egid=egid),
    }


def render(document: dict[str, Any]) -> str:
    """The text of the file: one tab a level, as the peers write it, and a newline at the end."""
    from pyruntime.spec.document import dump

    return dump(document, indent="\t") + "\n"


def _process() -> dict[str, Any]:
    return {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }


def _mounts(*, rootless: bool) -> list[dict[str, Any]]:
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    sysfs = _mount("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"])
    if rootless:  # sysfs wants a network namespace of the same user namespace
        sysfs = _mount("/sys", "none", "/sys", ["rbind", "nosuid", "noexec", "nodev", "ro"])
    else:
        pts.append("gid=5")  # the group tty; not mapped for a plain user
    return [
        _mount("/proc", "proc", "proc", []),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", pts),
        _mount("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),  # noqa: S108
        _mount("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        sysfs,
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    mount: dict[str, Any] = {"destination": destination, "type": kind, "source": source}
    if options:
        mount["options"] = options
    return mount


def _linux(*, rootless: bool, cgroup_v2: bool, euid: int, egid: int) -> dict[str, Any]:
    linux: dict[str, Any] = {}
    spaces = ["pid", "ipc", "uts", "mount"] if rootless else ["pid", "network", "ipc", "uts", "mount"]
    if cgroup_v2:
        spaces.append("cgroup")
    if rootless:
        spaces.append("user")
        linux["uidMappings"] = [{"containerID": 0, "hostID": euid, "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": egid, "size": 1}]
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    linux["namespaces"] = [{"type": kind} for kind in spaces]
    linux["maskedPaths"] = [f"/proc/{name}" for name in _MASKED] + ["/sys/firmware"]
    linux["readonlyPaths"] = [f"/proc/{name}" for name in _READONLY]
    return linux
