"""What the engine says of itself and its machine: version and info, with Docker's names (contract engine-api 3)."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from pyruntime.image.registry.hosts import masked
from pyruntime.version import SPEC_VERSION, VERSION

if TYPE_CHECKING:
    from pyruntime.engine.engine import Engine

API, MIN_API = "1.51", "1.24"
INDEX_SERVER = "https://index.docker.io/v1/"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
NOBODY = {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": "",
          "RemoteManagers": None}  # fmt: skip


def version() -> dict[str, Any]:
    """The answer of GET /version."""
    name = os.uname()
    built, commit = _built()
    common = {"Os": "linux", "Arch": ARCHITECTURES.get(name.machine, name.machine), "KernelVersion": name.release,
              "GitCommit": commit, "GoVersion": f"none (Python {sys.version.split()[0]})", "BuildTime": built}  # fmt: skip
    details = {**common, "ApiVersion": API, "MinAPIVersion": MIN_API, "Experimental": "false"}
    return {
        "Platform": {"Name": "pyruntime"},
        "Components": [{"Name": "Engine", "Version": VERSION, "Details": details},
                       {"Name": "pyruntime", "Version": VERSION, "Details": {"GitCommit": commit, "Spec": SPEC_VERSION}}],
        "Version": VERSION, "ApiVersion": API, "MinAPIVersion": MIN_API, **common,
    }  # fmt: skip


def info(engine: Engine, images: int) -> dict[str, Any]:
    """The answer of GET /info."""
    settings, name = engine.settings, os.uname()
    cgroup2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    system, system_version = _system()
    return {
        "ID": engine.id, "Containers": 0, "ContainersRunning": 0, "ContainersPaused": 0, "ContainersStopped": 0,
        "Images": images, "Driver": "overlay2", "DriverStatus": [["Backing Filesystem", _filesystem(settings.data_root)]],
        "Plugins": {"Volume": [], "Network": [], "Authorization": None, "Log": []},
        **_limits(cgroup2=cgroup2),
        "IPv4Forwarding": _read("/proc/sys/net/ipv4/ip_forward") == "1", "BridgeNfIptables": False,
        "BridgeNfIp6tables": False, "Debug": settings.debug, "NFd": len(os.listdir("/proc/self/fd")),
        "NGoroutines": len(os.listdir("/proc/self/task")), "NEventsListener": engine.events.listening(),
        "SystemTime": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() % 10**9:09d}Z",
        "LoggingDriver": "json-file", "CgroupDriver": "cgroupfs", "CgroupVersion": "2" if cgroup2 else "1",
        "KernelVersion": name.release, "OperatingSystem": system, "OSVersion": system_version, "OSType": "linux",
        "Architecture": name.machine, "NCPU": os.cpu_count() or 1, "MemTotal": _memory_bytes(),
        "IndexServerAddress": INDEX_SERVER, "RegistryConfig": _registries(engine), "GenericResources": None,
        "DockerRootDir": settings.data_root,
        "HttpProxy": masked(settings.http_proxy), "HttpsProxy": masked(settings.https_proxy), "NoProxy": settings.no_proxy,
        "Name": name.nodename, "Labels": list(settings.labels), "ExperimentalBuild": False,
        "ServerVersion": VERSION, "Runtimes": {"pyruntime": {"path": "pyruntime"}}, "DefaultRuntime": "pyruntime",
        "Swarm": NOBODY, "LiveRestoreEnabled": True, "Isolation": "", "InitBinary": "",
        "ContainerdCommit": {"ID": ""}, "RuncCommit": {"ID": ""}, "InitCommit": {"ID": ""},
        "SecurityOptions": _security(cgroup2=cgroup2), "CDISpecDirs": [], "Warnings": [],
    }  # fmt: skip


def _registries(engine: Engine) -> dict[str, Any]:
    """RegistryConfig: what is insecure, and the mirrors of docker.io."""
    settings = engine.settings
    ranges = [text for text in settings.insecure_registries if "/" in text]
    index = {host: {"Name": host, "Mirrors": [], "Secure": False, "Official": False}
             for host in settings.insecure_registries if host not in ranges}  # fmt: skip
    mirrors = [f"{mirror.rstrip('/')}/" for mirror in settings.registry_mirrors]
    index["docker.io"] = {"Name": "docker.io", "Mirrors": mirrors, "Secure": True, "Official": True}
    return {"InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8", *ranges], "IndexConfigs": index, "Mirrors": mirrors}


def _limits(*, cgroup2: bool) -> dict[str, bool]:
    """Which limits this kernel has, from the controllers it lists."""
    path = "/sys/fs/cgroup/cgroup.controllers" if cgroup2 else "/proc/cgroups"
    lines = _read(path).splitlines()
    if cgroup2:
        have = set(" ".join(lines).split())
    else:
        have = {line.split()[0] for line in lines if not line.startswith("#") and line.split()[-1] == "1"}
    memory, cpu = "memory" in have, "cpu" in have
    swap = memory and (cgroup2 or os.path.exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"))
    return {"MemoryLimit": memory, "SwapLimit": swap, "CpuCfsPeriod": cpu, "CpuCfsQuota": cpu, "CPUShares": cpu,
            "CPUSet": "cpuset" in have, "PidsLimit": "pids" in have, "OomKillDisable": memory and not cgroup2}  # fmt: skip


def _security(*, cgroup2: bool) -> list[str]:
    """SecurityOptions."""
    options = ["name=apparmor"] if _read("/sys/module/apparmor/parameters/enabled") == "Y" else []
    if os.path.exists("/proc/sys/kernel/seccomp/actions_avail"):
        options.append("name=seccomp,profile=builtin")
    if os.geteuid() != 0:
        options.append("name=rootless")
    return [*options, "name=cgroupns"] if cgroup2 else options


def _memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _system() -> tuple[str, str]:
    """(pretty name, version) of the distribution."""
    pairs = dict(line.split("=", 1) for line in _read("/etc/os-release").splitlines() if "=" in line)
    return pairs.get("PRETTY_NAME", "Linux").strip('"'), pairs.get("VERSION_ID", "").strip('"')


def _filesystem(path: str) -> str:
    """The type of the file system that holds `path`: the mount with the longest name above it."""
    best = ("", "unknown")
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4]
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, right.split()[0])
    return best[1]


def _built() -> tuple[str, str]:
    """(time of the build, commit): COMMIT is written by the build; both "" in a checkout that was not built."""
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "COMMIT")
    try:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000000000+00:00", time.gmtime(os.stat(path).st_mtime))
    except OSError:
        return "", ""
    return moment, _read(path)[:12]


def _read(path: str) -> str:
    """A small file without the white space around it, "" when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20).strip()
    except OSError:
        return ""
