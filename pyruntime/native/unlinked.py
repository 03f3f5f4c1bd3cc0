"""container-init where memory files may not run (vm.memfd_noexec=2): a file without a name, never the installed one.

It is made with O_TMPFILE, so that no instant shows it in a folder, and opened anew through a read-only mount of its own
that is attached nowhere: whoever reaches it by /proc/PID/exe gets EROFS, and ETXTBSY while it runs. Without the right to
mount (rootless) the second holds alone; the copy belongs to one call, so what it becomes after that runs nowhere.
"""

from __future__ import annotations

from errno import EACCES
from fcntl import fcntl
from posix import O_CLOEXEC, O_RDONLY, O_RDWR, close, fstatvfs, open, write

from pyruntime.native import kernel

# Tried in this order; tmpfs first. Who may write there does not matter: what has no name is not found.
FOLDERS = ("/run", "/dev/shm", "/tmp", "/var/tmp")  # noqa: S108 - nothing is named in them
O_TMPFILE = 0o20200000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
ST_NOEXEC = 8
F_SETLEASE, F_RDLCK, F_UNLCK = 1024, 0, 2
PATIENCE_S = 2.0


def program(data: bytes) -> int:
    """A descriptor of an executable file with `data`, read-only. Raises OSError when no folder can hold one."""
    refused: OSError = PermissionError(EACCES, "vm.memfd_noexec forbids memory files to run, and no folder of "
                                               f"{', '.join(FOLDERS)} holds executable files without a name")
    for folder in FOLDERS:
        try:
            fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0o500)
        except OSError:  # missing, read-only, not ours, or a file system without O_TMPFILE
            continue
        try:
            done = 0
            while done < len(data):
                done += write(fd, data[done:])
            copy = _read_only(fd)
        finally:
            close(fd)
        if not fstatvfs(copy).f_flag & ST_NOEXEC:
            _wait_for_writers(copy)
            return copy
        close(copy)
    raise refused


def _read_only(fd: int) -> int:
    path = f"/proc/self/fd/{fd}"
    try:
        tree = kernel.open_tree(path, kernel.OPEN_TREE_CLONE)
    except PermissionError:
        return open(path, O_RDONLY | O_CLOEXEC)
    try:
        closed = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
        kernel.mount_setattr(tree, attr_set=closed, attr_clr=MOUNT_ATTR_NOEXEC)
        return open(f"/proc/self/fd/{tree}", O_RDONLY | O_CLOEXEC)
    finally:
        close(tree)


def _wait_for_writers(fd: int) -> None:
    """Until the descriptor that wrote is gone from the children that other threads were just starting (ETXTBSY).

    A read lease is given only where nobody has the file open for writing (fcntl(2), F_SETLEASE).
    """
    from time import monotonic, sleep

    end = monotonic() + PATIENCE_S
    while monotonic() < end:
        try:
            fcntl(fd, F_SETLEASE, F_RDLCK)
        except BlockingIOError:
            sleep(0.002)
            continue
        except OSError:  # a file system without leases
            return
        fcntl(fd, F_SETLEASE, F_UNLCK)
        return
