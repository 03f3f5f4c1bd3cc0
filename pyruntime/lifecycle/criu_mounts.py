"""The mounts of a container that criu does not dump, because their contents are the host's: names and sources.

Each has a name in the images: at the dump criu is told which mount point bears it, at the restore which path of this
host is mounted there. A name is what the configuration says, so it does not change with symbolic links in the rootfs,
over which a mount point may lie elsewhere, and a container can be restored where its sources are others.

    bind              DESTINATION                  its source
    rbind             DESTINATION/BELOW as well    what is mounted below the source
    cgroup, v1        DESTINATION/TREE             the container's cgroup in that tree; with a cgroup namespace criu's own
    masked file       /dev/null
    device node       its path, in a user namespace, where there is no mknod(2)
"""

from __future__ import annotations

from posix import readlink

from pyruntime.host.cgroup_probe import unescape
from pyruntime.host.probe import clean_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.host.facts import CgroupFacts
    from pyruntime.plan.step import CgroupPlan
    from pyruntime.spec.config import Mount, Spec

    Points = tuple[tuple[str, str, str], ...]  # mount point, its root in the file system, type

DEVICE_NODES = ("null", "zero", "full", "random", "urandom", "tty")
MASK = "/dev/null"
MAX_LINKS = 40  # path_resolution(7)


def mount_points(mountinfo: bytes) -> Points:
    """Of each line (proc_pid_mountinfo(5))."""
    found = []
    for line in mountinfo.decode("utf-8", "surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        found.append((unescape(words[4]), unescape(words[3]), rest.partition(" ")[0]))
    return tuple(found)


def resolve(root: str, path: str) -> str:
    """`path` as it is below `root`, which symbolic links do not leave; what is not there is taken as it is."""
    done: list[str] = []
    left, links = path.split("/")[::-1], 0
    while left:
        part = left.pop()
        if part == "..":
            del done[-1:]
        elif part not in ("", "."):
            try:
                text = readlink(f"{root}/{'/'.join((*done, part))}")
            except OSError:
                done.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                return path
            if text.startswith("/"):
                done = []
            left += text.split("/")[::-1]
    return "/" + "/".join(done)


def is_bind(mount: Mount) -> bool:
    """Whether the mount is a bind of a host path."""
    return mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options


def device_nodes(spec: Spec) -> list[str]:
    """Devices that are binds of the host's nodes: all of them in a user namespace."""
    if spec.linux.namespace("user") is None:
        return []
    return [f"/dev/{name}" for name in DEVICE_NODES] + [device.path for device in spec.linux.devices]


def external_mounts(spec: Spec, bundle: str, inside: Points, host: Points, root: str) -> list[dict[str, str]]:
    """For a dump: each such mount point and its name. `inside` are init's mounts, whose root is seen at `root`."""
    places = {mount.destination: resolve(root, mount.destination) for mount in spec.mounts}
    found: dict[str, str] = {}
    for mount in spec.mounts:
        place = places[mount.destination]
        if is_bind(mount):
            found[place] = mount.destination
        for point, _, kind in inside:
            above = max((each for each in places.values() if _below(point, each)), key=len, default="")
            if above != place or point in places.values():
                continue
            name = mount.destination + point[len(place) :]
            if _is_tree(spec, mount, kind) or (is_bind(mount) and name in dict(_submounts(mount, bundle, host))):
                found[point] = name
    null = {point for point, within, _ in inside if within.endswith("/null")}
    found |= {path: MASK for path in (resolve(root, each) for each in spec.linux.masked_paths) if path in null}
    found |= {resolve(root, path): path for path in device_nodes(spec)}
    return [{"key": point, "val": name} for point, name in found.items()]


def mount_sources(spec: Spec, bundle: str, host: Points, facts: CgroupFacts, cgroup: CgroupPlan) -> list[dict[str, str]]:
    """For a restore: each of those names, and the path on this host that is mounted for it."""
    found: dict[str, str] = {}
    paths = dict(cgroup.paths)
    for mount in spec.mounts:
        if is_bind(mount):
            found[mount.destination] = clean_path(bundle, mount.source)
            found |= dict(_submounts(mount, bundle, host))
        elif _is_tree(spec, mount, "cgroup"):
            for tree in facts.hierarchies:
                own = next((paths[name] for name in tree.controllers or ("",) if name in paths), "")
                if own:
                    found[f"{mount.destination.rstrip('/')}/{tree.mount.rpartition('/')[2]}"] = own
    found |= {path: path for path in device_nodes(spec)}
    if spec.linux.masked_paths:
        found[MASK] = MASK
    return [{"key": name, "val": source} for name, source in found.items()]


def _below(path: str, folder: str) -> bool:
    return path.startswith(f"{folder.rstrip('/')}/")


def _is_tree(spec: Spec, mount: Mount, kind: str) -> bool:
    """A bind of a tree of v1 or of a hybrid host; with a cgroup namespace it is a mount of its own."""
    return mount.type == "cgroup" and kind in ("cgroup", "cgroup2") and spec.linux.namespace("cgroup") is None


def _submounts(mount: Mount, bundle: str, host: Points) -> list[tuple[Any, Any]]:
    """(name, path on the host) of what a recursive bind takes along."""
    if "rbind" not in mount.options:
        return []
    source = resolve("", clean_path(bundle, mount.source))
    return [(mount.destination + point[len(source.rstrip("/")) :], point) for point, _, _ in host if _below(point, source)]
