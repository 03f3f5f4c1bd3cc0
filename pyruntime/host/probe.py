"""Fills HostFacts and BundleFacts from the running kernel, reading only what the spec at hand needs."""

from __future__ import annotations

from errno import EINVAL
from fcntl import ioctl
from posix import (
    O_CLOEXEC,
    O_NONBLOCK,
    O_RDONLY,
    O_RDWR,
    close,
    fstat,
    getegid,
    geteuid,
    listdir,
    open,
    read,
    readlink,
    stat,
    uname,
    write,
)

from pyruntime.errors import HostError, SpecError
from pyruntime.host.facts import BundleFacts, CgroupFacts, HostFacts, NamespacePath, NetDeviceFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.config import Mount, Process, Spec

NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
NS_GET_USERNS = 0xB701
KERNEL_FLOOR = (5, 10)
# CLONE_NEW* by the spec's word (clone(2), setns(2))
NAMESPACE_FLAGS = {
    "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000,
    "user": 0x10000000, "pid": 0x20000000, "network": 0x40000000, "time": 0x80,
}  # fmt: skip
TYPE_OF_FLAG = {flag: name for name, flag in NAMESPACE_FLAGS.items()}
POSSIBLE_CPUS = 1024  # the kernel ignores bits past its own number (sched_setaffinity(2))


def read_file(path: str, size: int = 65536) -> bytes:
    """The first `size` bytes of a file of procfs or sysfs. Raises OSError."""
    fd = open(path, O_RDONLY | O_CLOEXEC)
    try:
        return read(fd, size)
    finally:
        close(fd)


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 1) of "6.1.0-18-amd64"."""
    major, _, rest = release.partition(".")
    digits = ""
    for char in rest:
        if not char.isdigit():
            break
        digits += char
    return int(major), int(digits or 0)


def effective_capabilities() -> int:
    """Our effective set as a mask, from /proc/self/status."""
    status = read_file("/proc/self/status", 4096)
    return int(status.partition(b"\nCapEff:\t")[2][:16], 16)


def in_user_namespace() -> bool:
    """Whether our user namespace is not the initial one, whose map is the identity over 32 bits."""
    return read_file("/proc/self/uid_map", 4096).split() != [b"0", b"0", b"4294967295"]


def owns_mount_namespace() -> bool:
    """Whether our mount namespace is owned by our own user namespace; its owner is hidden when it is further out."""
    fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC)
    try:
        owner = ioctl(fd, NS_GET_USERNS)
    except OSError:
        return False
    finally:
        close(fd)
    try:
        return fstat(owner).st_ino == stat("/proc/self/ns/user").st_ino
    finally:
        close(owner)


def probe_host(spec: Spec, *, cgroup: CgroupFacts, no_pivot: bool = False, process: Process | None = None) -> HostFacts:
    """The facts that planning this spec needs, with `process` for its own. Raises HostError for a kernel below 5.10."""
    process = process or spec.process
    labels = [label for label in (spec.linux.mount_label, process.selinux_label if process is not None else "") if label]
    selinux = bool(labels) and has_selinux()
    resctrl = resctrl_mount() if spec.linux.intel_rdt is not None else ""
    system = uname()
    version = kernel_version(system.release)
    if version < KERNEL_FLOOR:
        raise HostError(f"kernel {system.release} is too old", hint="pyruntime needs Linux 5.10 or newer")
    nested = in_user_namespace()
    return HostFacts(
        kernel=version,
        euid=geteuid(),
        egid=getegid(),
        capabilities=effective_capabilities(),
        last_cap=int(read_file("/proc/sys/kernel/cap_last_cap", 16)),
        in_user_ns=nested,
        owns_mount_ns=not nested or owns_mount_namespace(),
        cgroup=cgroup,
        has_kcore=exists("/proc/kcore"),
        cpu_count=POSSIBLE_CPUS,
        machine=system.machine,
        host_net_ns=stat("/proc/self/ns/net").st_ino if spec.linux.sysctl else 0,
        apparmor=process is not None and bool(process.apparmor_profile) and has_apparmor(),
        selinux=selinux,
        selinux_unknown=tuple(filter(is_unknown_label, labels)) if selinux else (),
        resctrl=resctrl,
        resctrl_groups=tuple(sorted(listdir(resctrl))) if resctrl else (),
        proc_mounts=_full_proc_mounts() if no_pivot else (),
    )


def has_apparmor() -> bool:
    """Whether the kernel runs AppArmor (security/apparmor/lsm.c, parameter `enabled`)."""
    try:
        return read_file("/sys/module/apparmor/parameters/enabled", 16)[:1] == b"Y"
    except OSError:
        return False


def has_selinux() -> bool:
    """Whether the kernel runs SELinux: its file system is mounted (selinux(8))."""
    return exists("/sys/fs/selinux/enforce")


def is_unknown_label(label: str) -> bool:
    """Whether the policy says that it has no such label; where it does not say, the kernel will (selinuxfs `context`)."""
    try:
        fd = open("/sys/fs/selinux/context", O_RDWR | O_CLOEXEC)
    except OSError:
        return False
    try:
        write(fd, label.encode("utf-8", "surrogateescape"))
    except OSError as error:
        return error.errno == EINVAL
    finally:
        close(fd)
    return False


def resctrl_mount() -> str:
    """Where resctrl is mounted, "" when it is not."""
    for line in read_file("/proc/self/mountinfo", 1 << 22).splitlines():
        left, _, right = line.partition(b" - ")
        if right.startswith(b"resctrl "):
            return _unescape(left.split()[4])
    return ""


def exists(path: str) -> bool:
    """Whether there is something at `path` that can be looked at."""
    try:
        stat(path)
    except OSError:
        return False
    return True


def _full_proc_mounts() -> tuple[str, ...]:
    """Host mount points of complete proc and sysfs, which --no-pivot must hide (contract 1.4)."""
    found = []
    for line in read_file("/proc/self/mountinfo", 1 << 22).splitlines():
        left, _, right = line.partition(b" - ")
        fields = left.split()
        if fields[3] == b"/" and right.split()[0] in (b"proc", b"sysfs"):
            found.append(_unescape(fields[4]))
    return tuple(reversed(found))


def _unescape(text: bytes) -> str:
    for code, char in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        text = text.replace(code, char)
    return text.decode("utf-8", "surrogateescape")


def clean_path(base: str, path: str) -> str:
    """`path` made absolute below `base`, with `.`, `..` and double slashes resolved as text."""
    parts: list[str] = []
    for part in (path if path.startswith("/") else f"{base}/{path}").split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def probe_bundle(spec: Spec, bundle: str) -> BundleFacts:
    """What the config names on the host. `bundle` is absolute. Raises SpecError with the pointer of what is wrong."""
    root = spec.root
    rootfs = clean_path(bundle, root.path) if root is not None else ""
    joined = tuple(
        _namespace_path(entry.path, entry.type, f"/linux/namespaces/{index}/path")
        for index, entry in enumerate(spec.linux.namespaces)
        if entry.path
    )
    user = next((entry.path for entry in spec.linux.namespaces if entry.type == "user" and entry.path), "")
    return BundleFacts(
        path=bundle,
        rootfs=rootfs,
        namespace_paths=joined,
        joined_uid_map=_joined_map(user, "uid_map") if user else (),
        joined_gid_map=_joined_map(user, "gid_map") if user else (),
        net_devices=_net_devices(spec),
        links=probe_links(spec.mounts, bundle),
        root_mount=_mount_of(rootfs) if spec.linux.rootfs_propagation else "",
    )


def _net_devices(spec: Spec) -> tuple[NetDeviceFacts, ...]:
    if not spec.linux.net_devices or geteuid() != 0:
        return ()
    from pyruntime.host.net_probe import probe_devices

    return probe_devices(spec)


def probe_links(mounts: tuple[Mount, ...], bundle: str) -> tuple[tuple[str, str], ...]:
    """The bind sources that are to be copied when they are symlinks, and are."""
    found = []
    for mount in mounts:
        if "copy-symlink" not in mount.options:
            continue
        source = mount.source if mount.source.startswith("/") else f"{bundle}/{mount.source}"
        try:
            found.append((source, readlink(source)))
        except OSError:  # no symlink, or not there, which opening it will tell
            continue
    return tuple(found)


def check_rootfs(spec: Spec, rootfs: str) -> None:
    """Raises SpecError unless the rootfs is an existing directory reached without a final symlink (contract 4.1)."""
    configured = spec.root.path if spec.root is not None else ""
    try:
        mode = stat(rootfs, follow_symlinks=False).st_mode
    except OSError as error:
        raise SpecError(f"invalid rootfs: stat {rootfs}: {(error.strerror or '').lower()}", field="/root/path",
                        value=configured, hint="root.path is relative to the bundle") from error
    if mode & 0o170000 == 0o120000:
        raise SpecError("invalid rootfs: not an absolute path, or a symlink", field="/root/path", value=configured,
                        hint="name the directory itself, not a link to it")
    if mode & 0o170000 != 0o040000:
        raise SpecError(f"invalid rootfs: {rootfs} is no folder", field="/root/path", value=configured,
                        hint="root.path must name the folder that holds the container's files")


def _namespace_path(path: str, kind: str, pointer: str) -> NamespacePath:
    """The facts of a namespace file (S36). Opening never blocks and never follows into a device."""
    try:
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    except OSError as error:
        raise SpecError(f"failed to open namespace path {path}: {(error.strerror or '').lower()}", field=pointer,
                        value=path, hint="is the process whose namespace it is still there?") from error
    try:
        actual = TYPE_OF_FLAG.get(ioctl(fd, NS_GET_NSTYPE), "unknown")
        if actual != kind:
            raise SpecError(f"namespace path {path} is a {actual} namespace, not a {kind} one", field=pointer,
                            value=path, hint="use the file of that type below /proc/PID/ns")
        return NamespacePath(path, actual, fstat(fd).st_ino)
    except OSError as error:
        raise SpecError(f"namespace path {path} is not a namespace file", field=pointer, value=path,
                        hint="use a file below /proc/PID/ns or a bind mount of one") from error
    finally:
        close(fd)


def _joined_map(path: str, name: str) -> tuple[tuple[int, int, int], ...]:
    """The map of the user namespace at `path`, when the path is /proc/PID/ns/user; () when it cannot be told."""
    process, found, _ = path.rpartition("/ns/user")
    if not found or not process.startswith("/proc/"):
        return ()
    try:
        lines = read_file(f"{process}/{name}").splitlines()
    except OSError:
        return ()
    return tuple((int(inner), int(outer), int(size)) for inner, outer, size in (line.split() for line in lines))


def _mount_of(path: str) -> str:
    """The mount point that holds `path`: the longest prefix in mountinfo."""
    best = "/"
    for line in read_file("/proc/self/mountinfo", 1 << 22).splitlines():
        point = _unescape(line.split(b" ", 5)[4])
        if len(point) > len(best) and (path == point or path.startswith(point + "/")):
            best = point
    return best


