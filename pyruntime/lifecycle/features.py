"""features: what this runtime can do, as features.md has it; no root needed, no state touched (contract 2.4)."""

from __future__ import annotations

from pyruntime.host.probe import read_file
from pyruntime.lifecycle.prepare import OCI_VERSION
from pyruntime.native import seccomp as native_seccomp
from pyruntime.plan import mounts, seccomp
from pyruntime.plan.kernel import CAPABILITIES, MEMORY_FLAGS, MEMORY_MODES
from pyruntime.spec import parse_seccomp
from pyruntime.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HOOKS = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
NAMESPACES = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"]


def features() -> dict[str, Any]:
    """The document. What is false or left out is not supported; nothing is claimed that a later version brings."""
    annotations = {"org.pyruntime.version": VERSION}
    version = native_seccomp.libseccomp_version()
    if version:
        annotations["io.github.seccomp.libseccomp.version"] = version
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": HOOKS,
        "mountOptions": _mount_options(),
        "linux": _linux(has_seccomp=bool(version)),
        "annotations": annotations,
        "potentiallyUnsafeConfigAnnotations": ["bundle", "org.criu.config"],
    }


def _mount_options() -> list[str]:
    """Every option that is more than file system data; those of id-mapped mounts are announced by mountExtensions."""
    tables = (mounts.ATTRIBUTES, mounts.RECURSIVE_ATTRIBUTES, mounts.SUPERBLOCK, mounts.WITHOUT_EFFECT, mounts.PROPAGATION,
              mounts.KINDS, ("tmpcopyup", "copy-symlink", "src-nofollow", "dest-nofollow"))  # fmt: skip
    return sorted({name for table in tables for name in table})


def _linux(*, has_seccomp: bool) -> dict[str, Any]:
    last = int(read_file("/proc/sys/kernel/cap_last_cap", 16))
    return {
        "namespaces": NAMESPACES,
        "capabilities": [f"CAP_{name}" for name in CAPABILITIES[: last + 1]],
        "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
        "seccomp": _seccomp() if has_seccomp else {"enabled": False},
        "apparmor": {"enabled": True},
        "selinux": {"enabled": True},
        "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
        "memoryPolicy": {"modes": sorted(MEMORY_MODES), "flags": sorted(MEMORY_FLAGS)},
        "mountExtensions": {"idmap": {"enabled": True}},
        "netDevices": {"enabled": True},
    }


def _seccomp() -> dict[str, Any]:
    architectures = {name: name.removeprefix("SCMP_ARCH_").lower() for name in sorted(parse_seccomp.ARCHITECTURES)}
    return {
        "enabled": True,
        "actions": sorted(seccomp.ACTIONS),
        "operators": sorted(seccomp.OPERATORS),
        "archs": [name for name, word in architectures.items() if native_seccomp.architecture_known(word)],
        "knownFlags": sorted(seccomp.FLAGS),
        "supportedFlags": sorted(name for name, (flag, _) in seccomp.FLAGS.items() if native_seccomp.flag_supported(flag)),
    }
