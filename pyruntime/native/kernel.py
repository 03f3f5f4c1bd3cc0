"""System calls that Python lacks, each raising OSError with the call's name (and path) as its text.

Flags are the kernel's numbers (open_tree(2), mount_setattr(2), prlimit(2), memfd_create(2)). Descriptors that come
back are the caller's to close and are O_CLOEXEC. Paths may be str (surrogateescape) or bytes.
"""

from __future__ import annotations

from posix import strerror

from pyruntime.native._ext import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = 0o2000000
RLIM_INFINITY = (1 << 64) - 1
MOUNT_ATTR_IDMAP = 0x00100000


def _check(result: int, call: str, path: str | bytes = "") -> int:
    """`result`, or OSError(errno) whose text names the call and the path."""
    if result >= 0:
        return result
    where = path.decode("utf-8", "replace") if isinstance(path, bytes) else path
    raise OSError(-result, f"{call} {where}: {strerror(-result)}" if where else f"{call}: {strerror(-result)}")


def _bytes(path: str | bytes) -> bytes:
    return path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape")


def spawn(exec_fd: int, sock_fd: int, stdio: Sequence[int], argv: tuple[str, str], *, cgroup: int = -1,
          tasks: Sequence[int] = ()) -> tuple[int, int, list[int]]:
    """(pid, pidfd, left) of the program in `exec_fd`, with stdio as 0-2, `sock_fd` as 3 and an empty environment.

    No other descriptor reaches it. The child is made with CLONE_VM|CLONE_VFORK and execveat(2), in the v2 `cgroup`
    (a descriptor of the directory), and writes "0" to the v1 files `tasks`, all borrowed. `left` are those descriptors
    whose cgroup it is not in: that is no error here.
    """
    pidfd = ffi.new("int *")
    names = [ffi.new("char[]", _bytes(word)) for word in argv]
    places = ffi.new("int[]", [cgroup, *tasks])
    count = 1 + len(tasks)
    pid = _check(lib.pr_spawn(exec_fd, sock_fd, ffi.new("int[3]", list(stdio)), names[0], names[1], places, count, pidfd),
                 "execveat")
    return pid, pidfd[0], [places[i] for i in range(count) if places[i] >= 0]


def sealed_memfd(name: str, data: bytes, *, executable: bool) -> int:
    """A memfd that holds `data` and can never change again (memfd_create(2), F_ADD_SEALS)."""
    return _check(
        lib.pr_sealed_memfd(name.encode(), ffi.from_buffer(data), len(data), 1 if executable else 0), "memfd_create"
    )


def socketpair() -> tuple[int, int]:
    """Two connected SOCK_SEQPACKET descriptors."""
    fds = ffi.new("int[2]")
    _check(lib.pr_socketpair(fds), "socketpair")
    return fds[0], fds[1]


def send(sock: int, data: bytes, fds: Sequence[int] = ()) -> None:
    """One message with `fds` (borrowed, at most 250) as SCM_RIGHTS. BrokenPipeError when nobody reads."""
    _check(lib.pr_send(sock, ffi.from_buffer(data), len(data), ffi.new("int[]", list(fds) or [0]), len(fds)), "sendmsg")


def receive(sock: int, size: int, *, max_fds: int = 0, timeout_ms: int = -1, pidfd: int = -1) -> tuple[bytes, list[int]]:
    """One message and the descriptors that came with it; (b"", []) at EOF or when the process of `pidfd` is dead."""
    buffer, fds, count = ffi.new("char[]", size), ffi.new("int[]", max_fds or 1), ffi.new("int *")
    while True:
        result = lib.pr_recv(sock, buffer, size, fds, max_fds, count, timeout_ms, pidfd)
        if result != -4:  # EINTR: Python's handlers have run between the two calls
            break
    length = _check(result, "recvmsg")
    return ffi.buffer(buffer, length)[:], [fds[i] for i in range(count[0])]


def connect_unix(path: str) -> int:
    """A stream socket connected to `path`, which may be longer than a socket address holds."""
    return _check(lib.pr_connect_unix(_bytes(path)), "connect", path)


def open_tree(path: str | bytes, flags: int, *, dir_fd: int = AT_FDCWD) -> int:
    """open_tree(2), Linux 5.2."""
    return _check(lib.pr_open_tree(dir_fd, _bytes(path), flags | OPEN_TREE_CLOEXEC), "open_tree", path)


def mount_setattr(fd: int, *, flags: int = 0, attr_set: int = 0, attr_clr: int = 0, propagation: int = 0,
                  userns_fd: int = -1) -> None:
    """mount_setattr(2) on the mount that `fd` names, Linux 5.12."""
    _check(lib.pr_mount_setattr(fd, b"", flags | AT_EMPTY_PATH, attr_set, attr_clr, propagation, userns_fd),
           "mount_setattr")


def user_namespace(uid_map: bytes, gid_map: bytes) -> int:
    """A descriptor of a new user namespace with these maps and without a process; ours stays what it is."""
    return _check(lib.pr_user_ns(uid_map, len(uid_map), gid_map, len(gid_map)), "user namespace")


def mount_propagation(fd: int, flags: int) -> None:
    """mount(2) with MS_SLAVE and the like on the mount that `fd` names, for kernels before 5.12."""
    _check(lib.pr_mount_propagation(fd, flags), "mount")


def prlimit(pid: int, resource: int, soft: int, hard: int) -> None:
    """Set a limit of another process; 2^64-1 is RLIM_INFINITY (prlimit(2))."""
    _check(lib.pr_prlimit(pid, resource, soft, hard), "prlimit")


def umount(path: str, flags: int) -> None:
    """umount2(2)."""
    _check(lib.pr_umount(_bytes(path), flags), "umount2", path)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A copy of descriptor `fd` of another process (pidfd_getfd(2), Linux 5.6)."""
    return _check(lib.pr_pidfd_getfd(pidfd, fd), "pidfd_getfd")


def signalfd(mask: int = 0) -> int:
    """Block signals in this thread and return a descriptor that reports them. Bit n - 1 of `mask` is signal n; 0: all.

    Only the command line asks for this: a library leaves its caller's signals alone.
    """
    return _check(lib.pr_signalfd(mask), "signalfd")


def write_file(path: str, data: bytes) -> None:
    """One write(2) to an existing file, the way cgroupfs and procfs take a value."""
    _check(lib.pr_write_string(_bytes(path), ffi.from_buffer(data), len(data)), "write", path)


def streampair() -> tuple[int, int]:
    """Two connected SOCK_STREAM descriptors, for a console that stays with us."""
    fds = ffi.new("int[2]")
    _check(lib.pr_streampair(fds), "socketpair")
    return fds[0], fds[1]


def cgroup_devices(path: str, program: bytes) -> None:
    """Attach a device program (BPF, 8 bytes an instruction) to the cgroup v2 at `path`; it goes with the cgroup."""
    _check(lib.pr_cgroup_devices(_bytes(path), program, len(program) // 8), "bpf", path)


def syncfs(fd: int) -> None:
    """Everything written to the file system of `fd` is on stable storage (syncfs(2)); other threads run meanwhile.

    Raises OSError for what could not be written since the descriptor was opened.
    """
    _check(lib.pr_syncfs(fd), "syncfs")
