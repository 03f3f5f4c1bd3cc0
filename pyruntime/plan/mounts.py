"""Compile `mounts` (runtime-spec config.md, Mounts; config-linux.md) into steps. Pure.

A bind is a detached clone made by the host (`open_tree`, so its source is resolved in the caller's mount namespace)
that init attaches inside the root; any other type is made by init itself. Attributes follow as one `mount_setattr`,
propagation last, in the order of the options. What must stay writable until the root is complete (tmpfs, anything on
/dev) is made read-only late: those steps come back in `Mounts.late`.
"""

from __future__ import annotations

from pyruntime.errors import HostError, SpecError
from pyruntime.plan.kernel import (
    ATTR_ATIME,
    ATTR_NOATIME,
    ATTR_NODEV,
    ATTR_NODIRATIME,
    ATTR_NOEXEC,
    ATTR_NOSUID,
    ATTR_NOSYMFOLLOW,
    ATTR_RDONLY,
    ATTR_STRICTATIME,
    CAP_SYS_ADMIN,
    EBUSY,
    EEXIST,
    ENOENT,
    ENOSYS,
    EPERM,
    MS_BIND,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_UNBINDABLE,
)
from pyruntime.plan.labels import label_option, mount_context, quoted
from pyruntime.plan.opcodes import OP_FLAGS
from pyruntime.plan.step import HostStep, Step, either, init_step, instead
from pyruntime.record import Record
from pyruntime.spec.annotations import FORCE_V1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.host.facts import BundleFacts, HostFacts
    from pyruntime.plan.step import CgroupPlan, Slots
    from pyruntime.spec.config import Mount, Spec

# Mount attributes: option -> (bits set, bits cleared); later options win, as in mount(8).
ATTRIBUTES = {
    "ro": (ATTR_RDONLY, 0),
    "rw": (0, ATTR_RDONLY),
    "nosuid": (ATTR_NOSUID, 0),
    "suid": (0, ATTR_NOSUID),
    "nodev": (ATTR_NODEV, 0),
    "dev": (0, ATTR_NODEV),
    "noexec": (ATTR_NOEXEC, 0),
    "exec": (0, ATTR_NOEXEC),
    "nosymfollow": (ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, ATTR_NOSYMFOLLOW),
    "nodiratime": (ATTR_NODIRATIME, 0),
    "diratime": (0, ATTR_NODIRATIME),
    # One group of values, not bits: setting any member clears the mask first (mount_setattr(2)).
    "noatime": (ATTR_NOATIME, ATTR_ATIME),
    "strictatime": (ATTR_STRICTATIME, ATTR_ATIME),
    "relatime": (0, ATTR_ATIME),
    "atime": (0, ATTR_ATIME),
    "norelatime": (ATTR_STRICTATIME, ATTR_ATIME),
    "nostrictatime": (0, ATTR_ATIME),
}

# The same with a leading r: recursive, kernel 5.12 (contract 4.3).
RECURSIVE_ATTRIBUTES = {"r" + name: bits for name, bits in ATTRIBUTES.items()}

# Superblock flags that fsconfig takes as bare keys (fs/fs_context.c, common_set_sb_flag and common_clear_sb_flag).
SUPERBLOCK = {
    "sync": "sync",
    "async": "async",
    "dirsync": "dirsync",
    "mand": "mand",
    "nomand": "nomand",
    "lazytime": "lazytime",
    "nolazytime": "nolazytime",
}

# Accepted without effect: nothing of them can be set through the mount interface that Linux 5.10 and later have
# (silent and loud ask for log lines, iversion is the file systems' own default, rsync and its like need no mount).
WITHOUT_EFFECT = frozenset(
    ("defaults", "silent", "loud", "iversion", "noiversion", "rsync", "rasync", "rdirsync", "rmand", "rnomand")
)

PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}

KINDS = {"bind": MS_BIND, "rbind": MS_BIND | MS_REC, "remount": MS_REMOUNT}

# Neither flags nor data; idmap and ridmap may carry mappings.
OTHER = frozenset(("src-nofollow", "dest-nofollow", "copy-symlink", "tmpcopyup", "idmap", "ridmap"))

# What mount(2) calls an attribute, for kernels and sandboxes without mount_setattr.
ATTR_TO_MS = (
    (ATTR_RDONLY, MS_RDONLY),
    (ATTR_NOSUID, MS_NOSUID),
    (ATTR_NODEV, MS_NODEV),
    (ATTR_NOEXEC, MS_NOEXEC),
    (ATTR_NODIRATIME, MS_NODIRATIME),
    (ATTR_NOSYMFOLLOW, MS_NOSYMFOLLOW),
)

# File systems whose superblock is the kernel's or the namespace's: `ro` is a matter of the mount alone.
SHARED_SUPERBLOCK = frozenset(("proc", "sysfs", "mqueue", "devpts", "cgroup", "cgroup2"))

IDMAP_KERNEL = (5, 12)  # mount_setattr(2)
MAX_VALUE = 255  # bytes of a value that fsconfig(2) takes, e.g. of lowerdir; counted with its key
MAX_DATA = 4095  # bytes of mount(2)'s data, a page with its NUL

F_NO_SYMLINK = OP_FLAGS["TARGET_NO_SYMLINK"]
F_INHERIT_MODE = OP_FLAGS["INHERIT_MODE"]
F_PROCFS_ONLY = OP_FLAGS["PROCFS_ONLY"]
F_RECURSIVE = OP_FLAGS["RECURSIVE"]
F_LIKE_SLOT = OP_FLAGS["LIKE_SLOT"]
F_NO_FOLLOW = OP_FLAGS["TARGET_NO_FOLLOW"]
F_COVER_LINK = OP_FLAGS["COVER_LINK"]


class Split(Record):
    """The options of one mount, sorted. `superblock` and `data` are fsconfig keys, `propagation` in config order."""

    kind: int = 0  # MS_BIND, MS_REC, MS_REMOUNT
    attr_set: int = 0
    attr_clr: int = 0
    rec_set: int = 0
    rec_clr: int = 0
    propagation: tuple[int, ...] = ()
    superblock: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    other: tuple[str, ...] = ()  # options that are neither flags nor data: src-nofollow, tmpcopyup, idmap


def split_options(options: tuple[str, ...]) -> Split:
    """`options` by what they mean; a name that is in no table is data of the file system."""
    kind = attr_set = attr_clr = rec_set = rec_clr = 0
    propagation: list[int] = []
    superblock: list[str] = []
    data: list[str] = []
    other: list[str] = []
    for option in options:
        if bits := ATTRIBUTES.get(option):
            attr_set = attr_set & ~bits[1] | bits[0]
            attr_clr = attr_clr & ~(bits[0] & ~bits[1]) | bits[1]
        elif option in KINDS:
            kind |= KINDS[option]
        elif option in PROPAGATION:
            propagation.append(PROPAGATION[option])
        elif bits := RECURSIVE_ATTRIBUTES.get(option):
            rec_set = rec_set & ~bits[1] | bits[0]
            rec_clr = rec_clr & ~(bits[0] & ~bits[1]) | bits[1]
        elif option in SUPERBLOCK:
            superblock.append(SUPERBLOCK[option])
        elif option in OTHER or option.startswith(("idmap=", "ridmap=")):
            other.append(option)
        elif option not in WITHOUT_EFFECT:
            data.extend(split_data(option))
    return Split(
        kind, attr_set, attr_clr, rec_set, rec_clr, tuple(propagation), tuple(superblock), tuple(data), tuple(other)
    )


def split_data(text: str) -> list[str]:
    """The fsconfig keys in one data option: cut at commas, but not inside quotes nor after a backslash."""
    if "," not in text:
        return [text] if text else []
    keys, current, quoted, escaped = [], "", False, False
    for char in text:
        if char == "," and not quoted and not escaped:
            keys.append(current)
            current = ""
            continue
        quoted ^= char == '"' and not escaped
        escaped = char == "\\" and not escaped
        current += char
    keys.append(current)
    return [key for key in keys if key]


class Mounts:
    """The steps of all mounts: `host` before spawn, `init` in order, `late` when the root is complete.

    `inside`: the caller has no rights over its own mount namespace (a plain user, or root of a user namespace that has
    none), so sources are opened by init in its copy of that namespace, before anything is attached there: `opens`.
    """

    def __init__(self, spec: Spec, bundle: BundleFacts, host: HostFacts, cgroup: CgroupPlan, slots: Slots) -> None:
        self.host: list[HostStep] = []
        self.opens: list[Step] = []
        self.inside = opens_inside(host)
        self.live = False  # a container whose program runs: what a bind may not show is set before it is attached
        self.init: list[Step] = []
        self.late: list[Step] = []
        self.warnings: list[tuple[str, str]] = []
        self.slot = slots.take
        self.bundle_path = bundle.path
        kinds = {entry.type for entry in spec.linux.namespaces}
        self.user_ns = host.in_user_ns or "user" in kinds
        self.net_ns = any(entry.type == "network" and not entry.path for entry in spec.linux.namespaces)
        self.cgroup_ns = "cgroup" in kinds
        self.rootfs_shared = spec.linux.rootfs_propagation in ("shared", "rshared")
        self.rootless, self.kernel = host.euid != 0, host.kernel
        self.linux, self.bundle = spec.linux, bundle
        self.cgroup = host.cgroup
        self.cgroup_paths = cgroup.paths
        self.has_unit = bool(cgroup.paths) and not cgroup.make  # systemd makes the directories when stage 0 is there
        forced = dict(spec.annotations).get(FORCE_V1, "")
        self.forced_v1 = clean(forced) if forced else ""
        self.label = label_option(spec, host)

    def open(self, path: str, origin: str, *, recursive: bool = True, propagation: int = MS_SLAVE | MS_REC,
             follow: bool = True, later: bool = False) -> int:  # fmt: skip
        """The slot of a detached clone of a host path; `later` when it does not exist before init does."""
        slot = self.slot()
        if self.inside or later:
            step = open_step(slot, path, origin, recursive=recursive, propagation=propagation, follow=follow)
            self.opens.append(step)
        else:
            self.host.append(HostStep("open_tree", (path, slot, int(recursive), propagation, int(follow)), origin))
        return slot

    def open_device(self, path: str, mode: int, dev: int, origin: str) -> int:
        """The slot of a detached clone of a host device node, checked to be that one."""
        slot = self.slot()
        if self.inside:
            self.opens.append(init_step("clone_tree", (slot, path, F_NO_FOLLOW, MS_SLAVE, mode, dev), origin))
        else:
            self.host.append(HostStep("open_device", (path, mode, dev, slot), origin))
        return slot


def opens_inside(host: HostFacts) -> bool:
    """Whether open_tree(2) would refuse the caller: it takes CAP_SYS_ADMIN over the mount namespace."""
    return not (host.capabilities >> CAP_SYS_ADMIN & 1 and host.owns_mount_ns)


def open_step(slot: int, path: str, origin: str, *, recursive: bool, propagation: int, follow: bool) -> Step:
    """The clone of a host path as a step of init."""
    flags = (F_RECURSIVE if recursive else 0) | (0 if follow else F_NO_FOLLOW)
    return init_step("clone_tree", (slot, path, flags, propagation, 0, 0), origin)


def compile_mounts(out: Mounts, mounts: tuple[Mount, ...]) -> None:
    """Append the steps of every entry, in config order (contract 4.3). Raises SpecError."""
    forced = out.forced_v1
    for index, mount in enumerate(mounts):
        if forced and clean(mount.destination) == forced:
            _systemd_tree(out, forced)
            forced = ""
        else:
            compile_mount(out, mount, f"/mounts/{index}")
    if forced:
        _systemd_tree(out, forced)


def _systemd_tree(out: Mounts, target: str) -> None:
    """The host's v1 tree name=systemd for an old systemd in the container, writable (contract 5, force_cgroup_v1)."""
    name, origin = "name=systemd", f"/annotations/{FORCE_V1}"
    own = dict(out.cgroup_paths).get(name, "")
    if not own:
        raise HostError("the host has no cgroup v1 tree name=systemd mounted", field=origin, value=target,
                        hint="as root: mkdir /sys/fs/cgroup/systemd && mount -t cgroup -o none,name=systemd cgroup "
                        "/sys/fs/cgroup/systemd")  # fmt: skip
    attrs = split_options(("nosuid", "noexec", "nodev")).attr_set
    if out.cgroup_ns:
        _new_cgroup_mount(out, target, (name,), attrs, origin)
    else:
        _own_cgroup(out, own, target, attrs, origin)


def compile_mount(out: Mounts, mount: Mount, origin: str) -> None:
    """Append the steps of one entry."""
    split = split_options(mount.options)
    target = clean(mount.destination)
    if split.other:
        _refuse(mount, split, origin)
    if split.kind & MS_REMOUNT:
        _remount(out, split, target, origin)
    elif split.kind & MS_BIND or mount.type == "bind":
        if split.data:
            raise SpecError(
                "bind mounts cannot have any filesystem-specific options applied",
                field=f"{origin}/options",
                value=",".join(split.data),
                hint="remove these options, or mount a file system of its own instead of a bind",
            )
        _bind(out, mount, split, target, origin)
    elif mount.type == "cgroup":
        _cgroup(out, split, target, origin)
    elif mount.type in ("proc", "sysfs"):
        _kernel_tree(out, mount, split, target, origin)
    elif mount.type == "tmpfs":
        _tmpfs(out, mount, split, target, origin)
    else:
        _ordinary(out, mount, split, target, origin)


def clean(path: str) -> str:
    """`path` absolute, without empty and `.` components; `..` goes up, at most to the root."""
    if path.startswith("/") and "//" not in path and "/." not in path and (path == "/" or not path.endswith("/")):
        return path
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts[-1:] = []
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def to_ms(attrs: int, cleared: int) -> int:
    """MOUNT_ATTR_* bits as mount(2) flags; no word on atime keeps what the mount has (do_remount in fs/namespace.c)."""
    flags = 0
    for attr, flag in ATTR_TO_MS:
        if attrs & attr:
            flags |= flag
    if not cleared & ATTR_ATIME:
        return flags
    atime = attrs & ATTR_ATIME
    return flags | (MS_NOATIME if atime == ATTR_NOATIME else MS_STRICTATIME if atime else MS_RELATIME)


def setattr_step(target: str, attr_set: int, attr_clr: int, origin: str, flags: int = 0) -> Step:
    """`mount_setattr`, or on ENOSYS (kernel before 5.12, or a filter around us) a remount when that can do it."""
    args = (target, attr_set, attr_clr, 0, flags)
    if flags & F_RECURSIVE:
        return init_step("mount_setattr", args, origin)  # nothing older can change a whole tree
    again = instead(ENOSYS, "remount", (target, MS_REMOUNT | MS_BIND | to_ms(attr_set, attr_clr), ""), origin)
    return either("mount_setattr", args, origin, again)


def _refuse(mount: Mount, split: Split, origin: str) -> None:
    """Raise SpecError for an option of another kind of mount: dropping it would change what the container sees."""
    if "tmpcopyup" in split.other and (mount.type != "tmpfs" or split.kind):
        raise SpecError("tmpcopyup is only allowed for tmpfs mounts", field=f"{origin}/options", value=mount.type,
                        hint="make it a tmpfs, or remove the option")  # fmt: skip
    if "copy-symlink" in split.other and not (split.kind & MS_BIND or mount.type == "bind"):
        raise SpecError("copy-symlink is only allowed for bind mounts", field=f"{origin}/options", value=mount.type,
                        hint="make it a bind, or remove the option")  # fmt: skip


def _after(out: Mounts, split: Split, target: str, origin: str, follow: int = 0) -> None:
    """Recursive attributes, then propagation in the order of the options: what follows every kind of mount."""
    if split.rec_set or split.rec_clr:
        out.init.append(
            init_step("mount_setattr", (target, split.rec_set, split.rec_clr, 0, F_RECURSIVE | follow), f"{origin}/options")
        )
    for flags in split.propagation:
        recursive = F_RECURSIVE if flags & MS_REC else 0
        older = instead(ENOSYS, "classic_mount", ("", "", target, flags, ""), f"{origin}/options")
        args = (target, 0, 0, flags & ~MS_REC, recursive | follow)
        out.init.append(either("mount_setattr", args, f"{origin}/options", older))


def _bind(out: Mounts, mount: Mount, split: Split, target: str, origin: str) -> None:
    """Host clone, move into place, then attributes when any option sets or clears one."""
    source = mount.source if mount.source.startswith("/") else f"{out.bundle_path}/{mount.source}"
    link = dict(out.bundle.links).get(source) if "copy-symlink" in split.other else None
    if link is not None:
        parent = instead(ENOENT, "make_path", (target.rpartition("/")[0] or "/", 0o755, 0, -1), origin, retry=True)
        out.init.append(either("symlink", (link, target, 0), origin, parent))
        return
    recursive = bool(split.kind & MS_REC)
    handed, rest = _handed_over(out, split.propagation)
    # What was no symlink when it was looked at has not become one that leads elsewhere.
    follow_source = "src-nofollow" not in split.other and "copy-symlink" not in split.other
    slot = out.open(source, origin, recursive=recursive, propagation=handed, follow=follow_source)
    here = follow = F_NO_FOLLOW | F_COVER_LINK if "dest-nofollow" in split.other else 0
    if target == "/proc":
        follow |= F_PROCFS_ONLY
    if out.live:
        split = _before(out, split, slot, origin)
    _attach(out, slot, target, origin, follow)
    if split.attr_set or split.attr_clr:
        late = split.attr_set & ATTR_RDONLY and target == "/dev"
        steps = out.late if late else out.init
        steps.append(setattr_step(target, split.attr_set, split.attr_clr, f"{origin}/options", here))
    _after(out, split.replace(propagation=rest), target, origin, here)
    if mount.uid_mappings or mount.gid_mappings or any(word.startswith(("idmap", "ridmap")) for word in split.other):
        _idmap(out, mount, source, slot, origin)


def _before(out: Mounts, split: Split, slot: int, origin: str) -> Split:
    """Attributes of a clone that nobody has seen yet, for a container whose program runs already; what is left."""
    for recursive, wanted, cleared in ((0, split.attr_set, split.attr_clr), (1, split.rec_set, split.rec_clr)):
        if wanted or cleared:
            out.host.append(HostStep("tree_attributes", (slot, wanted, cleared, recursive), f"{origin}/options"))
    return split.replace(attr_set=0, attr_clr=0, rec_set=0, rec_clr=0)


def _idmap(out: Mounts, mount: Mount, source: str, slot: int, origin: str) -> None:
    """Map the ids of the clone before it is handed over: only a tree that nobody has seen can be (mount_setattr(2))."""
    from pyruntime.plan.idmap import idmap_step
    from pyruntime.plan.process import triples

    field = f"{origin}/uidMappings" if mount.uid_mappings else f"{origin}/options"
    if out.rootless or out.inside:
        raise SpecError("id-mapped mounts are not supported for rootless containers", field=field,
                        hint="give the source the owner that the container needs")  # fmt: skip
    if out.kernel < IDMAP_KERNEL:
        raise SpecError("id-mapped mounts need Linux 5.12", field=field, hint="give the source the owner that it needs")
    maps = (triples(out.linux.uid_mappings) or out.bundle.joined_uid_map,
            triples(out.linux.gid_mappings) or out.bundle.joined_gid_map)  # fmt: skip
    out.host.append(idmap_step(mount, source, slot, maps, origin))


def _attach(out: Mounts, slot: int, target: str, origin: str, follow: int = 0) -> None:
    """Move the tree in `slot` to `target`, whose missing parts are made: a file for a file, else a directory."""
    made = instead(ENOENT, "make_path", (target, 0o755, F_LIKE_SLOT | follow & F_NO_FOLLOW, slot), origin, retry=True)
    out.init.append(either("move_mount", (slot, target, follow), origin, made))


def _handed_over(out: Mounts, propagation: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Propagation of the clone the host hands over, and what init still has to set on it.

    A tree that is still a peer of the host's is handed over only when the whole rootfs is to be shared as well
    (rootfsPropagation), which is how volumes that propagate both ways are asked for. In every other case the
    clone is cut off first (DESIGN: runtime 8), so that `shared` makes a new peer group inside the container.
    """
    if not propagation:
        return MS_SLAVE | MS_REC, ()
    first = propagation[0]
    if first in (MS_PRIVATE | MS_REC, MS_SLAVE | MS_REC):
        return first, propagation[1:]
    if first & MS_SHARED and out.rootfs_shared:
        return MS_SHARED | MS_REC, propagation[1:]
    return MS_SLAVE | MS_REC, propagation


def _remount(out: Mounts, split: Split, target: str, origin: str) -> None:
    """Change an existing mount: attributes keep what is not named, file system data goes to its superblock."""
    if split.attr_set or split.attr_clr:
        out.init.append(setattr_step(target, split.attr_set, split.attr_clr, origin))
    if (split.data or split.superblock) and not split.kind & MS_BIND:
        data = ",".join(split.superblock + split.data)
        out.init.append(
            init_step("remount", (target, MS_REMOUNT | to_ms(split.attr_set, split.attr_clr), data), origin)
        )
    _after(out, split, target, origin)


def _mount(out: Mounts, fstype: str, source: str, target: str, data: tuple[str, ...], attrs: int, origin: str,
           flags: int = 0, instead_of: tuple[Step, ...] = ()) -> None:  # fmt: skip
    """A new file system at `target`, which is made when it is missing."""
    made = instead(ENOENT, "make_path", (target, 0o755, flags & F_NO_SYMLINK, -1), origin, retry=True)
    data += mount_context(out.label, fstype)
    if any(len(key.encode("utf-8", "surrogateescape")) > MAX_VALUE for key in data):
        text = ",".join(map(quoted, data))
        if len(text.encode("utf-8", "surrogateescape")) > MAX_DATA:
            raise SpecError("mount data is too long", field=f"{origin}/options", value=f"{text[:40]}...",
                            hint=f"the kernel takes {MAX_DATA} bytes; shorter paths or fewer layers fit")  # fmt: skip
        out.init.append(either("classic_mount", (fstype, source, target, to_ms(attrs, attrs), text), origin, made))
        return
    out.init.append(either("mount", (fstype, source, target, data, attrs, flags), origin, made, *instead_of))


def _ordinary(out: Mounts, mount: Mount, split: Split, target: str, origin: str) -> None:
    """Any file system type; `ro` also reaches the superblock, so that a device is never opened for writing."""
    if not mount.type:
        raise SpecError(f'mount at "{target}" has no type', field=f"{origin}/type",
                        hint="name the file system, such as tmpfs; a bind mount has the option bind or rbind")
    data, attrs = split.superblock + split.data, split.attr_set
    if attrs & ATTR_RDONLY and target == "/dev":
        attrs &= ~ATTR_RDONLY
        out.late.append(setattr_step(target, ATTR_RDONLY, 0, f"{origin}/options"))
    elif attrs & ATTR_RDONLY and mount.type not in SHARED_SUPERBLOCK:
        data = ("ro", *data)
    _mount(out, mount.type, mount.source or mount.type, target, data, attrs, origin)
    _after(out, split, target, origin)


def _tmpfs(out: Mounts, mount: Mount, split: Split, target: str, origin: str) -> None:
    """Takes the mode of the directory it covers unless told; read-only only at the end, so that it can be filled."""
    if split.attr_set & ATTR_RDONLY:
        out.late.append(setattr_step(target, ATTR_RDONLY, 0, f"{origin}/options"))
    flags = 0 if any(key.startswith("mode=") for key in split.data) else F_INHERIT_MODE
    source, data, attrs = mount.source or "tmpfs", split.superblock + split.data, split.attr_set & ~ATTR_RDONLY
    if "tmpcopyup" in split.other:
        data += mount_context(out.label, "tmpfs")
        # The mount keeps hold of the directory it covers for the very next step: it has no alternatives here.
        out.init.append(init_step("make_path", (target, 0o755, 0, -1), origin))
        out.init.append(init_step("mount", ("tmpfs", source, target, data, attrs, flags), origin))
        out.init.append(init_step("copy_up", (target, -1), f"{origin}/options"))
    else:
        _mount(out, "tmpfs", source, target, data, attrs, origin, flags)
    _after(out, split, target, origin)


def _kernel_tree(out: Mounts, mount: Mount, split: Split, target: str, origin: str) -> None:
    """proc and sysfs: the target must be an ordinary directory (S23).

    A new sysfs belongs to the network namespace: in a user namespace the kernel refuses one for a network that belongs
    to the host, and the host's /sys stands in (contract 4.3).
    """
    alternatives: tuple[Step, ...] = ()
    borrowed = mount.type == "sysfs" and out.user_ns and not out.net_ns
    if borrowed:
        slot = out.open("/sys", origin)
        alternatives = (instead(EPERM, "move_mount", (slot, target, F_NO_SYMLINK), origin),)
        out.warnings.append((origin, "sysfs may be the host's: the container has no network namespace of its own"))
    data = split.superblock + split.data
    _mount(
        out, mount.type, mount.source or mount.type, target, data, split.attr_set, origin, F_NO_SYMLINK, alternatives
    )
    if borrowed and split.attr_set:
        attributes = (target, split.attr_set, ATTR_ATIME if split.attr_set & ATTR_ATIME else 0, 0, F_RECURSIVE)
        out.init.append(init_step("mount_setattr", attributes, origin))
    _after(out, split, target, origin)


def _cgroup(out: Mounts, split: Split, target: str, origin: str) -> None:
    """The container's view of the cgroup trees (contract 4.4); writable only when the config does not say `ro`.

    With v1 hierarchies (hybrid included) that is a tmpfs with one mount for each; the unified tree of a hybrid host
    is one of them.
    """
    attrs = split.attr_set
    if out.cgroup.layout == "v2":
        _cgroup2(out, target, attrs, origin)
        _after(out, split, target, origin)
        return
    _mount(out, "tmpfs", "tmpfs", target, ("mode=755",), attrs & ~ATTR_RDONLY, origin)
    paths = dict(out.cgroup_paths)
    for tree in out.cgroup.hierarchies:
        name = tree.mount.rsplit("/", 1)[-1]
        place = f"{target}/{name}"
        controllers = tree.controllers if tree.version == 1 else ("",)
        own = next((paths[controller] for controller in controllers if controller in paths), "")
        if out.cgroup_ns:
            _new_cgroup_mount(out, place, controllers, attrs, origin)
        elif own:
            _own_cgroup(out, own, place, attrs, origin)
        for alias in controllers if len(controllers) > 1 else ():
            out.init.append(init_step("symlink", (name, f"{target}/{alias}", 0), origin, (EEXIST,)))
    if attrs & ATTR_RDONLY:
        out.late.append(setattr_step(target, ATTR_RDONLY, 0, origin))
    _after(out, split, target, origin)


def _new_cgroup_mount(out: Mounts, place: str, controllers: tuple[str, ...], attrs: int, origin: str) -> None:
    """One hierarchy as the cgroup namespace shows it."""
    if controllers == ("",):
        _mount(out, "cgroup2", "cgroup", place, (), attrs, origin)
    elif controllers[0].startswith("name="):
        _mount(out, "cgroup", controllers[0].removeprefix("name="), place, ("none", *controllers), attrs, origin)
    else:
        _mount(out, "cgroup", "cgroup", place, controllers, attrs, origin)


def _own_cgroup(out: Mounts, own: str, target: str, attrs: int, origin: str) -> None:
    """Without a cgroup namespace: a bind of the directory that is the container's."""
    slot = out.open(own, origin, recursive=False, later=out.has_unit)
    _attach(out, slot, target, origin)
    if attrs:
        out.init.append(setattr_step(target, attrs, ATTR_ATIME if attrs & ATTR_ATIME else 0, origin))


def _cgroup2(out: Mounts, target: str, attrs: int, origin: str) -> None:
    """A fresh cgroup2 mount; where a user namespace is refused one, a bind of what belongs to the container."""
    if not out.user_ns:
        _mount(out, "cgroup2", "cgroup", target, (), attrs, origin)
        return
    own = dict(out.cgroup_paths).get("", "") if out.cgroup_ns else ""
    slot = out.open(own or "/sys/fs/cgroup", origin, recursive=False, later=bool(own) and out.has_unit)
    if not own:  # the host's tree is never writable in a container without a cgroup namespace (S32)
        attrs |= ATTR_RDONLY
    bind = tuple(instead(errno, "move_mount", (slot, target, 0), origin) for errno in (EPERM, EBUSY))
    _mount(out, "cgroup2", "cgroup", target, (), attrs, origin, 0, bind)
    if attrs:
        out.init.append(setattr_step(target, attrs, ATTR_ATIME if attrs & ATTR_ATIME else 0, origin))
