"""The cgroups below a container's own: found, read, written and removed without trusting their shape.

The container may have made them, so there can be many, they can be nested deeper than PATH_MAX, and they can come and
go meanwhile. Hence each is reached by a descriptor, one step at a time; only one descriptor is open, and `..` leads
back (cgroupfs has no symlinks, and a rename on v1 stays within its parent). Every function takes a deadline of
time.monotonic(). A descriptor that iteration yields is borrowed until the next step.
"""

from __future__ import annotations

from errno import ENODEV, ENOENT, EOPNOTSUPP
from posix import (
    O_CLOEXEC,
    O_DIRECTORY,
    O_NOFOLLOW,
    O_RDONLY,
    O_WRONLY,
    close,
    fstat,
    open,
    rmdir,
    scandir,
    write,
)
from time import monotonic

from pyruntime.cgroup.manager import read_file
from pyruntime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC
GONE = (ENOENT, ENODEV)  # ENODEV: the cgroup was removed after the file was opened
NO_CHILDREN = 2  # link count of a cgroup directory: 2 and one for each child


def processes_below(top: str, deadline: float) -> set[int]:
    """Host pids in `top` and below; empty when it is gone. A process of another pid namespace shows as 0: left out."""
    found: set[int] = set()
    for fd in directories(top, deadline):
        try:
            found.update(int(word) for word in read_file("cgroup.procs", fd).split())
        except OSError as error:
            if error.errno not in (*GONE, EOPNOTSUPP):  # threaded: its root lists the processes
                raise
    found.discard(0)
    return found


def write_below(top: str, file: str, data: bytes, deadline: float) -> None:
    """Write `data` to `file` of `top` and of each cgroup below it, parents first. Raises OSError."""
    for fd in directories(top, deadline):
        try:
            target = open(file, O_WRONLY | O_CLOEXEC, dir_fd=fd)
            try:
                write(target, data)
            finally:
                close(target)
        except OSError as error:
            if error.errno not in GONE:
                raise


def remove_below(top: str, deadline: float) -> None:
    """Remove the cgroups below `top` as far as they are free, deepest first; `top` itself stays."""
    try:
        fd = open(top, DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):  # or a file of the kernel's has its name
        return
    trail: list[str] = []  # names from top down to fd
    levels = [_children(fd)]  # what is still to be seen in each of them
    try:
        while monotonic() <= deadline:
            if levels[-1]:
                name = levels[-1].pop()
                child = -1 if _rmdir_at(name, fd) else _parent_at(name, fd)
                if child >= 0:
                    fd = _step(fd, child)
                    trail.append(name)
                    levels.append(_children(fd))
                continue
            levels.pop()
            if not trail:
                return
            fd = _step(fd, open("..", DIRECTORY, dir_fd=fd))
            _rmdir_at(trail.pop(), fd)
    except FileNotFoundError:
        return  # removed from under us by someone else; the caller looks again
    finally:
        close(fd)


def directories(top: str, deadline: float) -> Iterator[int]:
    """A descriptor of `top` and of each cgroup below it, parents first; nothing when `top` is gone.

    Raises HostError past the deadline.
    """
    try:
        fd = open(top, DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):  # or a file of the kernel's has its name
        return
    try:
        yield fd
        levels = [_children(fd)]
        while levels:
            if monotonic() > deadline:
                raise HostError(f"gave up looking through the cgroups below {top}",
                                hint="the container has made a very large number of them")
            if levels[-1]:
                try:
                    child = open(levels[-1].pop(), DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    continue
                fd = _step(fd, child)
                yield fd
                levels.append(_children(fd))
                continue
            levels.pop()
            if levels:
                fd = _step(fd, open("..", DIRECTORY, dir_fd=fd))
    finally:
        close(fd)


def _step(here: int, there: int) -> int:
    close(here)
    return there


def _children(fd: int) -> list[str]:
    """Names of the cgroups right below, none when this one has been removed."""
    if fstat(fd).st_nlink <= NO_CHILDREN:
        return []
    with scandir(fd) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _rmdir_at(name: str, fd: int) -> bool:
    try:
        rmdir(name, dir_fd=fd)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _parent_at(name: str, fd: int) -> int:
    """A descriptor (the caller's) of the child when it has children of its own, else -1: then processes keep it."""
    try:
        child = open(name, DIRECTORY, dir_fd=fd)
    except OSError:
        return -1
    if fstat(child).st_nlink > NO_CHILDREN:
        return child
    close(child)
    return -1
