"""The cgroup hierarchies of this host and the caller's own place in each: CgroupFacts.

Two files say it all: /proc/self/cgroup (cgroups(7): number:controllers:path) and /proc/self/mountinfo (proc(5)).
A host with thousands of mounts has a long mountinfo, so it is searched as bytes for the few cgroup lines instead
of being split.
"""

from __future__ import annotations

from posix import O_CLOEXEC, O_RDONLY, W_OK, access, close, geteuid, open, read

from pyruntime.host.facts import CgroupFacts, Hierarchy

CHUNK = 1 << 16


def probe_cgroup(*, check_access: bool = False) -> CgroupFacts:
    """The mounted hierarchies in the order of /proc/self/cgroup; layout "none" when cgroups are not mounted.

    `writable` is looked up for a plain user, and with `check_access` for root too (of a user namespace); then
    `v2_controllers` are those of the cgroup that would hold the container, which need not be all.
    """
    facts = parse_cgroup(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
    hierarchies = list(facts.hierarchies)
    check_access = check_access or geteuid() != 0
    if facts.layout in ("hybrid", "v2"):
        unified = hierarchies[-1]
        place = _base(unified) if check_access else unified.mount
        try:
            controllers = _read(f"{place}/cgroup.controllers").decode().split()
        except OSError:
            controllers = []
        hierarchies[-1] = unified.replace(v2_controllers=tuple(controllers))
    if check_access:
        hierarchies = [entry.replace(writable=_writable(entry)) for entry in hierarchies]
    return facts.replace(hierarchies=tuple(hierarchies))


def _base(hierarchy: Hierarchy) -> str:
    """Where a container without a cgroupsPath goes: below our own cgroup, in the unified tree beside it."""
    own = hierarchy.own if hierarchy.version == 1 else hierarchy.own.rpartition("/")[0]
    return hierarchy.mount + own


def _writable(hierarchy: Hierarchy) -> bool:
    """Whether a cgroup can be made there and, in the unified tree, a process moved into it (cgroup-v2.rst, Delegation)."""
    base = _base(hierarchy)
    return access(base, W_OK) and (hierarchy.version == 1 or access(f"{base}/cgroup.procs", W_OK))


def parse_cgroup(own: bytes, mountinfo: bytes) -> CgroupFacts:
    """CgroupFacts without `v2_controllers` from the texts of /proc/self/cgroup and /proc/self/mountinfo.

    Hierarchies that are not mounted are left out; the unified one is the last. Of several mounts of one hierarchy
    the first wins that shows its root, else the first that shows the caller's own cgroup.
    """
    mounts = _cgroup_mounts(mountinfo)
    found: list[Hierarchy] = []
    unified: list[Hierarchy] = []
    for line in own.decode("utf-8", "surrogateescape").split("\n"):
        if not line:
            continue
        _, names, path = line.split(":", 2)
        controllers = tuple(names.split(",")) if names else ()
        place = _place(mounts, controllers, path)
        if place is None:
            continue
        if controllers:
            found.append(Hierarchy(place[0], controllers, place[1], 1, ()))
        else:
            unified.append(Hierarchy(place[0], (), place[1], 2, ()))
    if any(not entry.controllers[0].startswith("name=") for entry in found) or (found and not unified):
        return CgroupFacts("hybrid" if unified else "v1", (*found, *unified))
    return CgroupFacts("v2" if unified else "none", (*found, *unified))  # a named tree beside v2 limits nothing


def _cgroup_mounts(mountinfo: bytes) -> list[tuple[str, str, list[str]]]:
    """(mount point, root inside the hierarchy, super options; [] for the unified tree) of each cgroup mount."""
    mounts = []
    at = mountinfo.find(b" - cgroup")
    while at >= 0:
        start = mountinfo.rfind(b"\n", 0, at) + 1
        end = mountinfo.find(b"\n", at)
        head = mountinfo[start:at].decode("utf-8", "surrogateescape").split(" ")
        tail = mountinfo[at + 3 : end if end >= 0 else None].decode("utf-8", "surrogateescape").split(" ")
        if tail[0] in ("cgroup", "cgroup2"):
            options = tail[2].split(",") if tail[0] == "cgroup" else []
            mounts.append((unescape(head[4]), unescape(head[3]), options))
        at = mountinfo.find(b" - cgroup", at + 9)
    return mounts


def _place(mounts: list[tuple[str, str, list[str]]], controllers: tuple[str, ...], own: str) -> tuple[str, str] | None:
    """(mount point, own cgroup as seen from there), or None when no mount shows this hierarchy."""
    partial = None
    for point, root, options in mounts:
        if controllers[0] not in options if controllers else options:
            continue
        if root == "/":
            return point, own
        if partial is None:
            below = own == root or own.startswith(f"{root}/")
            partial = (point, own[len(root) :] or "/") if below else (point, "/")
    return partial


def unescape(text: str) -> str:
    r"""A mountinfo field with its octal escapes (\040 for a space) undone (proc(5))."""
    if "\\" not in text:
        return text
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def _read(path: str) -> bytes:
    fd = open(path, O_RDONLY | O_CLOEXEC)
    try:
        chunks = []
        while chunk := read(fd, CHUNK):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        close(fd)
