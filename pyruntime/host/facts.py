"""HostFacts and BundleFacts: all that a plan may know of the world outside config.json. No probing here."""

from __future__ import annotations

from pyruntime.record import Record


class Hierarchy(Record):
    """One mounted cgroup hierarchy.

    `controllers`: v1 controller names on it, ("name=systemd",) for a named one, () for the unified tree.
    `mount` is where its root is mounted; `own` the caller's own cgroup in it, "/" or "/a/b", from /proc/self/cgroup.
    """

    mount: str
    controllers: tuple[str, ...]
    own: str = "/"
    version: int = 1
    v2_controllers: tuple[str, ...] = ()  # cgroup.controllers of the unified root, for version 2
    writable: bool = True  # the caller may make cgroups beside its own; looked at for plain users only


class CgroupFacts(Record):
    """`layout`: "v1" (no unified tree), "hybrid" (v1 controllers beside a unified tree), "v2", or "none"."""

    layout: str = "none"
    hierarchies: tuple[Hierarchy, ...] = ()


class HostFacts(Record):
    """Probed once per call. Defaults are a recent kernel with root's rights, for tests."""

    kernel: tuple[int, int] = (6, 1)
    euid: int = 0
    egid: int = 0
    capabilities: int = (1 << 41) - 1  # our effective set, bit n is capability n
    last_cap: int = 40  # /proc/sys/kernel/cap_last_cap
    in_user_ns: bool = False  # the caller is not in the initial user namespace
    owns_mount_ns: bool = True  # our mount namespace belongs to our user namespace, or we are in the initial one
    cgroup: CgroupFacts = CgroupFacts()
    namespaces: tuple[str, ...] = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")  # /proc/self/ns
    has_kcore: bool = True  # /proc/kcore exists
    cpu_count: int = 1  # possible CPUs, for the affinity reset
    machine: str = "x86_64"  # uname -m
    host_net_ns: int = 0  # inode of the caller's network namespace, for the sysctl rule
    systemd_base: str = ""  # cgroup of the caller's instance of systemd; "" for the system's
    apparmor: bool = False  # the security module runs; looked at when the spec names a profile or label
    selinux: bool = False
    selinux_unknown: tuple[str, ...] = ()  # labels of the spec that the loaded policy does not have
    resctrl: str = ""  # where resctrl is mounted; looked for when the spec has intelRdt
    resctrl_groups: tuple[str, ...] = ()  # the groups that exist there
    proc_mounts: tuple[str, ...] = ()  # host mount points of full proc and sysfs, for --no-pivot


class NamespacePath(Record):
    """A namespace that the config joins by path."""

    path: str
    type: str  # the spec's word, from NS_GET_NSTYPE
    inode: int
    owner_uid: int = 0


class Address(Record):
    """One address of a network device, in network byte order; `flags` are IFA_F_*."""

    family: int
    prefix: int
    local: bytes
    peer: bytes = b""  # IFA_ADDRESS: the same as `local` but for a point-to-point device
    broadcast: bytes = b""
    flags: int = 0


class NetDeviceFacts(Record):
    """A network device of the host that the config moves, with the addresses that go along."""

    name: str
    number: int  # its index in the runtime's namespace
    addresses: tuple[Address, ...] = ()


class BundleFacts(Record):
    """What the config names on the host. `path` is absolute; `rootfs` is root.path made absolute and clean."""

    path: str
    rootfs: str
    namespace_paths: tuple[NamespacePath, ...] = ()
    rlimits: tuple[tuple[str, int, int], ...] = ()  # our own (type, soft, hard), for the types the config sets
    joined_uid_map: tuple[tuple[int, int, int], ...] = ()  # maps of a user namespace joined by path
    joined_gid_map: tuple[tuple[int, int, int], ...] = ()
    net_devices: tuple[NetDeviceFacts, ...] = ()  # in the order of linux.netDevices
    links: tuple[tuple[str, str], ...] = ()  # bind sources with copy-symlink that are symlinks, and their texts
    root_mount: str = ""  # mount point that holds the rootfs; only with a rootfsPropagation
