"""Bundles to measure with: a busybox root file system shared by all, one folder with a config.json for each use."""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from benchmarks import docker_defaults as docker

TRUE = ("/bin/true",)
SLEEP = ("/bin/sleep", "3600")
SHORT_SLEEP = ("/bin/sleep", "0.4")
NAMESPACES = ("pid", "network", "ipc", "uts", "mount")
PROFILES = ("minimal", "docker")


def make_rootfs(folder: Path) -> Path:
    """A root file system with busybox and the folders that runtimes mount on. Needs busybox-static."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise FileNotFoundError("busybox is missing (Debian: busybox-static)")
    for name in ("bin", "dev", "proc", "sys", "etc", "tmp"):
        (folder / name).mkdir(parents=True)
    shutil.copy(busybox, folder / "bin" / "busybox")
    for name in ("sh", "true", "sleep", "cat"):
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    return folder


def config(profile: str, rootfs: Path, cgroups_path: str, args: tuple[str, ...]) -> dict[str, Any]:
    """config.json of a profile; `cgroups_path` is absolute, below the hierarchies' roots."""
    base: dict[str, Any] = {
        "ociVersion": "1.0.2",  # what Debian's runc and crun know
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
        },
        "root": {"path": str(rootfs)},
        "hostname": "bench",
        "linux": {"cgroupsPath": cgroups_path, "namespaces": [{"type": kind} for kind in NAMESPACES]},
    }
    if profile == "docker":
        return _docker(base)
    return base | {"mounts": [mount for mount in docker.MOUNTS if mount["destination"] in ("/proc", "/dev", "/sys")]}


def _docker(base: dict[str, Any]) -> dict[str, Any]:
    """Docker's default confinement, with limits, on top of the minimal bundle."""
    held = list(docker.CAPABILITIES)
    base["process"]["capabilities"] = {"bounding": held, "effective": held, "permitted": held}
    base["process"]["oomScoreAdj"] = 0
    base["mounts"] = docker.MOUNTS
    base["linux"]["namespaces"].append({"type": "cgroup"})
    base["linux"] |= {
        "sysctl": docker.SYSCTL,
        "maskedPaths": docker.MASKED_PATHS,
        "readonlyPaths": docker.READONLY_PATHS,
        "resources": docker.LIMITS | {"devices": docker.devices()},
    }
    if platform.machine() in docker.SECCOMP_MACHINES:
        base["linux"]["seccomp"] = docker.seccomp(platform.machine())
    return base


class Bundles:
    """Makes bundle folders below `folder`, each once; all cgroups lie below `cgroup`."""

    def __init__(self, folder: Path, cgroup: str) -> None:
        self.folder = folder
        self.cgroup = cgroup
        self.rootfs = make_rootfs(folder / "rootfs")

    def get(self, profile: str, name: str, args: tuple[str, ...]) -> str:
        """The path of the bundle `name`; its cgroup bears the same name."""
        path = self.folder / f"{profile}-{name}"
        if not path.exists():
            path.mkdir()
            text = json.dumps(config(profile, self.rootfs, f"/{self.cgroup}/{profile}-{name}", args))
            (path / "config.json").write_text(text)
        return os.fspath(path)
