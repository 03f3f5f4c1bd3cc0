"""What Docker confines a container to when it is told nothing: tables, and config.json objects made from them. Pure.

Facts: what `docker run` of Docker Engine 28 was seen to write (contract/engine-api 8 in words).
"""

from __future__ import annotations

from pyruntime.errors import UsageError
from pyruntime.spec.names import CAPABILITIES as KNOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL"
        " AUDIT_WRITE"
    ).split()
)
MASKED_PATHS = tuple(
    "/proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list"
    " /proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap".split()
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
SYSCTL = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
SHM_BYTES = 64 << 20
_QUIET = ("nosuid", "noexec", "nodev")
# (allowed access, type, major, minor), after "deny all"; None: any
DEVICES = (
    ("m", "c", None, None), ("m", "b", None, None), ("rwm", "c", 1, 3), ("rwm", "c", 1, 5), ("rwm", "c", 1, 7),
    ("rwm", "c", 1, 8), ("rwm", "c", 1, 9), ("rwm", "c", 5, 0), ("rwm", "c", 5, 1), ("rwm", "c", 5, 2),
    ("rwm", "c", 136, None),
)  # fmt: skip


def mounts(*, writable_system: bool = False, shm_bytes: int = SHM_BYTES, group_tty: bool = True) -> list[dict[str, Any]]:
    """The mounts of every container. `writable_system`: /sys and the cgroups too, as for a privileged one.

    `group_tty`: terminals belong to gid 5; not for a plain user, who has no such gid.
    """
    read_only = [] if writable_system else ["ro"]
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *(["gid=5"] if group_tty else [])]
    return [
        _mount("/proc", "proc", "proc", [*_QUIET]),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", terminals),
        _mount("/sys", "sysfs", "sysfs", [*_QUIET, *read_only]),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*read_only, *_QUIET]),
        _mount("/dev/mqueue", "mqueue", "mqueue", [*_QUIET]),
        _mount("/dev/shm", "tmpfs", "shm", [*_QUIET, "mode=1777", f"size={shm_bytes}"]),  # noqa: S108
    ]


def device_rules(*, everything: bool = False) -> list[dict[str, Any]]:
    """linux.resources.devices; `everything`: for a privileged container."""
    if everything:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for access, kind, major, minor in DEVICES:
        rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
        rule |= {} if major is None else {"major": major}
        rules.append(rule | ({} if minor is None else {"minor": minor}))
    return rules


def capabilities(add: Sequence[str] = (), drop: Sequence[str] = (), *, privileged: bool = False,
                 last: int = len(KNOWN) - 1) -> tuple[str, ...]:
    """The set of a container: Docker's fourteen, with changes; names in any case, with or without CAP_, or ALL.

    `last` is the highest number the kernel knows (cap_last_cap): of a later kernel's no name is given, and of an
    earlier kernel's none that it lacks. Raises UsageError for an unknown name.
    """
    known = KNOWN[: last + 1]
    wanted = [_capability(name, "CapAdd") for name in add]
    refused = [_capability(name, "CapDrop") for name in drop]
    if privileged:
        return known
    if "ALL" in wanted:
        return tuple(name for name in known if name not in refused)
    base = () if "ALL" in refused else tuple(name for name in CAPABILITIES if name not in refused)
    return tuple(dict.fromkeys((*base, *wanted)))


def _capability(text: str, option: str) -> str:
    name = text.upper()
    if name == "ALL":
        return name
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name not in KNOWN:
        raise UsageError(f'invalid {option}: unknown capability: "{name}"', field=option, value=text,
                         hint="capabilities(7) lists the names")
    return name


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}
