"""The host lane: one function per host step, called with the Drive and the step's arguments.

What a step opens it hands to the drive (`own`); what it makes in the world (cgroups, FIFOs) was written to `identity`
before, so that a later `delete --force` finds it. Failures are OSError, which `failure` turns into the step's words.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENOSYS
from posix import (
    O_APPEND,
    O_CLOEXEC,
    O_CREAT,
    O_RDWR,
    O_WRONLY,
    chown,
    close,
    fchmod,
    fstat,
    geteuid,
    mkdir,
    open,
    read,
)
from posix import mkfifo as make_fifo

from pyruntime.errors import HostError, RuntimeFailure
from pyruntime.native import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet
    from typing import Any, Protocol

    from pyruntime.lifecycle.drive import Drive
    from pyruntime.plan.step import HostStep

    Lines = tuple[tuple[int, int, int], ...]

    class Joining(Protocol):
        """Who joins cgroups: a Drive, or what stands in its place."""

        @property
        def stage0_pid(self) -> int:
            """The process."""

        @property
        def init_pid(self) -> int:
            """The container's init, which an exec follows; 0 without one."""

        @property
        def born_in(self) -> AbstractSet[str]:
            """Where the process was started."""

O_PATH = 0o10000000
O_NOFOLLOW = 0o400000
MS_REC = 0x4000
MS_SLAVE = 1 << 19
SCAN_TYPES = 0o170000


def cg_make(drive: Drive, path: str) -> None:
    """Make the cgroup and its missing parents."""
    from pyruntime.cgroup import manager

    manager.make(path)


def cg_write(drive: Drive, file: str, data: str) -> None:
    """Write one value."""
    from pyruntime.cgroup import manager

    manager.write(file, data)


def cg_devices(drive: Drive, path: str, rules: tuple[str, ...]) -> None:
    """The device filter of a v2 cgroup."""
    from pyruntime.cgroup.device_filter import compile_filter

    kernel.cgroup_devices(path, compile_filter(rules))


def sd_scope(drive: Drive, unit: str, properties: tuple[tuple[str, str, Any], ...], user: int) -> None:
    """The container's unit, with stage 0 in it."""
    from pyruntime.cgroup.systemd_bus import start_unit

    start_unit(unit, properties, drive.stage0_pid)


def cg_join(drive: Joining, path: str) -> None:
    """Put stage 0 in the cgroup, unless it was started there; it has not cloned yet, so init is born in it too.

    A container may have moved its processes further down, to share out its controllers: then an exec follows init.
    """
    if path in drive.born_in:
        return
    from pyruntime.cgroup import manager

    try:
        manager.join(path, drive.stage0_pid)
    except HostError as error:
        below = manager.place_below(path, drive.init_pid) if error.errno == EBUSY and drive.init_pid else ""
        if not below:
            raise
        manager.join(below, drive.stage0_pid)


def cg_own(drive: Drive, path: str, uid: int) -> None:
    """Give a cgroup to a user, as far as it may be given (config-linux.md, Cgroup ownership)."""
    from pyruntime.cgroup import manager

    manager.give(path, uid)


def cg_enter(drive: Drive, path: str) -> None:
    """Move init on, into a cgroup below its own; its cgroup namespace, made before, shows both."""
    from pyruntime.cgroup import manager

    manager.make(path)
    manager.join(path, drive.pid)


def open_output(drive: Drive, path: str, slot: int) -> None:
    """A file that the output of hooks is appended to."""
    drive.slots[slot] = drive.own(open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644))


def open_tree(drive: Drive, path: str, slot: int, recursive: int, propagation: int, follow: int) -> None:
    """A detached bind of a host path, with the propagation it will have in the container (DESIGN, runtime 8)."""
    flags = kernel.OPEN_TREE_CLONE | (kernel.AT_RECURSIVE if recursive else 0)
    flags |= 0 if follow else kernel.AT_SYMLINK_NOFOLLOW
    fd = drive.own(kernel.open_tree(path, flags))
    _propagate(fd, propagation or MS_SLAVE | MS_REC)
    drive.slots[slot] = fd


def _propagate(tree: int, wanted: int) -> None:
    """Before a tree is handed over: what is still shared with the host would carry mounts of the container to it."""
    try:
        kernel.mount_setattr(tree, flags=kernel.AT_RECURSIVE if wanted & MS_REC else 0, propagation=wanted & ~MS_REC)
    except OSError as error:
        if error.errno != ENOSYS:
            raise
        kernel.mount_propagation(tree, wanted)


def tree_attributes(drive: Drive, slot: int, attr_set: int, attr_clr: int, recursive: int) -> None:
    """Mount attributes of a clone, before it is attached where a program runs already (mount_setattr(2))."""
    kernel.mount_setattr(drive.slots[slot], flags=kernel.AT_RECURSIVE if recursive else 0, attr_set=attr_set,
                         attr_clr=attr_clr)


def idmap(drive: Drive, source: str, slot: int, recursive: int, uids: Lines, gids: Lines) -> None:
    """Map the ids of a tree that nobody has seen yet (mount_setattr(2), MOUNT_ATTR_IDMAP)."""
    fd = kernel.user_namespace(map_text(uids), map_text(gids))
    try:
        kernel.mount_setattr(drive.slots[slot], flags=kernel.AT_RECURSIVE if recursive else 0,
                             attr_set=kernel.MOUNT_ATTR_IDMAP, userns_fd=fd)
    finally:
        close(fd)


def map_text(lines: Lines) -> bytes:
    """A whole map as the kernel takes it in one write (user_namespaces(7))."""
    return "".join(f"{inner} {outer} {size}\n" for inner, outer, size in lines).encode()


def open_root(drive: Drive, path: str, slot: int, recursive: int) -> None:
    """A detached bind of the rootfs. Its own final name is not followed."""
    open_tree(drive, path, slot, recursive, 0, 0)


def open_ns(drive: Drive, path: str, nstype: int, slot: int) -> None:
    """A namespace file, checked again to be of its type (S36)."""
    from fcntl import ioctl

    fd = drive.own(open(path, O_CLOEXEC))
    if ioctl(fd, 0xB703) != nstype:  # NS_GET_NSTYPE
        raise OSError(EINVAL, f"namespace path {path}: not a namespace of that type")
    drive.slots[slot] = fd


def open_device(drive: Drive, path: str, mode: int, dev: int, slot: int) -> None:
    """A detached bind of a host device node, for where mknod is not allowed; checked by type and number (S2)."""
    fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC)
    try:
        there = fstat(fd)
        if there.st_mode & SCAN_TYPES != mode & SCAN_TYPES or there.st_rdev != dev:
            raise OSError(EINVAL, f"device {path}: the host's node is another device")
        tree = drive.own(kernel.open_tree(b"", kernel.OPEN_TREE_CLONE | kernel.AT_EMPTY_PATH, dir_fd=fd))
    finally:
        close(fd)
    _propagate(tree, MS_SLAVE)
    drive.slots[slot] = tree


def open_pidfd(drive: Drive, slot: int) -> None:
    """The pidfd of the container's init, opened and checked by exec; what it says of the namespaces cannot be raced."""
    drive.slots[slot] = drive.job.init_pidfd


def keep_fd(drive: Drive, number: int, slot: int) -> None:
    """A descriptor of the caller; borrowed."""
    fstat(number)
    drive.slots[slot] = number


def connect(drive: Drive, kind: str, slot: int) -> None:
    """The connected console socket, opened by create before anything was made."""
    drive.slots[slot] = drive.job.console_fd


def fifos(drive: Drive, fifo_slot: int, err_slot: int) -> None:
    """exec.fifo and exec.err, owned by the container's root, held open by init alone (DESIGN, runtime 7)."""
    entry = drive.job.entry
    assert entry is not None
    for name, slot in (("exec.fifo", fifo_slot), ("exec.err", err_slot)):
        make_fifo(name, 0o622, dir_fd=entry.fd)
        fd = drive.own(open(name, O_RDWR | O_CLOEXEC | O_NOFOLLOW, dir_fd=entry.fd))
        fchmod(fd, 0o622)  # whatever the umask
        if drive.job.fifo_owner != (0, 0):
            _give(fd, *drive.job.fifo_owner)
        drive.slots[slot] = fd


def _give(fd: int, uid: int, gid: int) -> None:
    """Change the owner. A plain user may not give a file away; init needs no right to it, it inherits the descriptor."""
    try:
        chown(fd, uid, gid)
    except PermissionError:
        if geteuid() == 0:
            raise


def spawn(drive: Drive) -> None:
    """Start container-init."""
    drive.spawn()


def id_map(drive: Drive, kind: str, lines: tuple[tuple[int, int, int], ...], method: str) -> None:
    """One write of the whole map (user_namespaces(7)), by ourselves or by the setuid program `method`."""
    if method:
        from pyruntime.lifecycle import rootless

        rootless.run_mapper(method, drive.stage0_pid, lines)
        return
    text = "".join(f"{inner} {outer} {size}\n" for inner, outer, size in lines)
    kernel.write_file(f"/proc/{drive.stage0_pid}/{kind}_map", text.encode())


def set_groups(drive: Drive, allow: int) -> None:
    """`deny` before an unprivileged gid_map (user_namespaces(7))."""
    kernel.write_file(f"/proc/{drive.stage0_pid}/setgroups", b"allow" if allow else b"deny")


def record_pid(drive: Drive) -> None:
    """Learn init's pid and write it to `identity`."""
    drive.wait_pid()


def hooks(drive: Drive, kind: str) -> None:
    """prestart or createRuntime, in the container's cgroup."""
    drive.job.on_hooks(kind)


def rlimit(drive: Drive, kind: int, soft: int, hard: int) -> None:
    """A limit of init, set from outside so that it cannot hinder init's own last steps."""
    kernel.prlimit(drive.pid, kind, soft, hard)


def rdt_make(drive: Drive, path: str) -> None:
    """A group of resctrl; one that is there already is used."""
    try:
        mkdir(path, 0o755)
    except FileExistsError:
        return


def rdt_compare(drive: Drive, file: str, lines: tuple[str, ...]) -> None:
    """A group that is shared says what the config says, or it is another's (config-linux.md, Intel RDT)."""
    from pyruntime.plan.rdt import parse_schemata

    there, wanted = parse_schemata(_read(file)), parse_schemata("\n".join(lines))
    for key, value in wanted.items():
        if there.get(key) != value:
            raise HostError(f"schemata of {file} do not match: {key[0]} of {key[1]}", field="/linux/intelRdt",
                            value="; ".join(lines), hint="name another closID, or the schema that the group has")


def _read(file: str) -> str:
    fd = open(file, O_CLOEXEC)
    try:
        return read(fd, 65536).decode()
    finally:
        close(fd)


def rdt_write(drive: Drive, file: str, line: str) -> None:
    """One line of schemata."""
    kernel.write_file(file, line.encode())


def rdt_join(drive: Drive, path: str) -> None:
    """Put stage 0 in the group; it has not cloned yet, so init is born there."""
    kernel.write_file(f"{path}/tasks", str(drive.stage0_pid).encode())


def move_device(drive: Drive, device: str, index: int, name: str, new_index: int) -> None:
    """Move a network device into the namespace in which init waits."""
    from pyruntime.host.net_probe import move_device as move

    fd = open(f"/proc/{drive.pid}/ns/net", O_CLOEXEC)
    try:
        move(index, name, fd, new_index)
    finally:
        close(fd)


def save_state(drive: Drive) -> None:
    """state.json; from now on the container is `created`."""
    drive.job.on_ready()


def send_listener(drive: Drive, path: str, metadata: str) -> None:
    """The seccomp listener to the agent's socket: one connection, one JSON, one descriptor (config-linux.md, Seccomp)."""
    from pyruntime.spec import document

    number = drive.arrive_listener()
    fd = kernel.pidfd_getfd(drive.pidfd, number)
    try:
        value = {"ociVersion": "1.3.0", "fds": ["seccompFd"], "pid": drive.pid, "metadata": metadata,
                 "state": drive.job.listener_state(drive.pid)}
        sock = kernel.connect_unix(path)
        try:
            kernel.send(sock, document.dump(value).encode("utf-8", "surrogateescape"), [fd])
        finally:
            close(sock)
    finally:
        close(fd)


def release(drive: Drive, barrier: str) -> None:
    """Let init go on from the barrier it is at."""
    drive.release(barrier)


STEPS: dict[str, Callable[..., None]] = {
    step.__name__: step
    for step in (cg_make, cg_write, cg_devices, sd_scope, cg_join, cg_own, cg_enter, open_output, open_tree,
                 tree_attributes, idmap, open_root, open_ns, open_device, open_pidfd, keep_fd, connect, fifos, spawn,
                 id_map, set_groups, record_pid, hooks, rlimit, rdt_make, rdt_compare, rdt_write, rdt_join, move_device,
                 save_state, send_listener, release)
}  # fmt: skip


def failure(step: HostStep | None, error: OSError) -> RuntimeFailure:
    """The words for a host step that the kernel refused."""
    if step is None:
        return HostError(str(error.strerror or error), errno=error.errno or 0)
    from pyruntime.plan import messages

    return messages.host_error(step, error.errno or 0, error.strerror or str(error))


