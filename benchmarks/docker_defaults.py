"""What Docker confines a container to when it is told nothing, as the bundles of the benchmarks take it."""

from __future__ import annotations

from pyruntime.image import confinement
from pyruntime.image.confinement import CAPABILITIES, SYSCTL
from pyruntime.image.confinement import device_rules as devices
from pyruntime.image.seccomp_default import default_seccomp

__all__ = ["CAPABILITIES", "LIMITS", "MASKED_PATHS", "MOUNTS", "READONLY_PATHS", "SECCOMP_MACHINES", "SYSCTL", "devices", "seccomp"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MASKED_PATHS, READONLY_PATHS = list(confinement.MASKED_PATHS), list(confinement.READONLY_PATHS)
MOUNTS = confinement.mounts()

# What `docker run --memory 512m --cpus 1.5 --pids-limit 512` adds: limits that no benchmark program reaches.
LIMITS = {
    "memory": {"limit": 512 << 20, "swap": 1 << 30, "disableOOMKiller": False},
    "cpu": {"shares": 1024, "period": 100_000, "quota": 150_000},
    "pids": {"limit": 512},
}

# uname -m: the name images use
SECCOMP_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def seccomp(machine: str) -> dict[str, Any]:
    """linux.seccomp for a container with the default capabilities on that `uname -m`."""
    profile = default_seccomp(SECCOMP_MACHINES[machine], CAPABILITIES)
    assert profile is not None
    return profile
