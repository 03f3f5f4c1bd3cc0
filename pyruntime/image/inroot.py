"""Paths inside a root file system that others have made, opened so that nothing outside of it is ever reached.

A path is walked component by component on descriptors. A symlink is read and followed by us, its absolute target and
its `..` end at the root (path_resolution(7) as a chroot sees it), so that a link swapped meanwhile leads nowhere else.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Path = str | bytes

MAX_LINKS = 40  # as the kernel's own limit, path_resolution(7)
MAX_DEPTH = 256  # directories held open at once
_DIRECTORY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class _Walk:
    """The directories from the root to where the walk is, each held open."""

    def __init__(self, root_fd: int, path: Path) -> None:
        self.path = path
        self.held = [os.open(".", _DIRECTORY | os.O_DIRECTORY, dir_fd=root_fd)]
        self.left = _components(path)
        self.links = 0

    @property
    def here(self) -> int:
        return self.held[-1]

    def enter(self, fd: int) -> None:
        """The directory `fd`, from now on held by the walk."""
        self.held.append(fd)
        if len(self.held) > MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), self.path)

    def up(self) -> None:
        """`..`, which is the root itself in the root."""
        if len(self.held) > 1:
            os.close(self.held.pop())

    def follow(self, target: bytes) -> None:
        """Goes on with a symlink's target before what is left."""
        self.links += 1
        if self.links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.path)
        if target.startswith(b"/"):
            while len(self.held) > 1:
                self.up()
        self.left = _components(target) + self.left

    def close(self) -> None:
        for fd in self.held:
            os.close(fd)


def open_in_root(root_fd: int, path: Path, flags: int) -> int:
    """A descriptor of `path` inside the directory `root_fd`, opened with `flags`; the caller closes it.

    Symlinks are followed inside the root, the last one too. `root_fd` is borrowed and may be O_PATH. Raises OSError as
    open(2) would; O_CREAT is not supported.
    """
    walk = _Walk(root_fd, path)
    try:
        for name, last in _steps(walk):
            if last and not flags & os.O_PATH:
                return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=walk.here)
            walk.enter(_open_directory(walk, name, last=last))
        return os.open(".", flags | os.O_CLOEXEC, dir_fd=walk.here) if not flags & os.O_PATH else os.dup(walk.here)
    finally:
        walk.close()


def make_directories(root_fd: int, path: Path, *, mode: int = 0o755, owner: tuple[int, int] | None = None) -> int:
    """An O_PATH descriptor of the directory `path` inside `root_fd`, made with its parents where missing.

    What exists is left as it is; what is made gets `mode` whatever the umask, and `owner` (uid, gid) when given. Raises
    NotADirectoryError when something else stands in the way.
    """
    walk = _Walk(root_fd, path)
    try:
        for name, _ in _steps(walk, missing_ok=True):
            try:
                fd = os.open(name, _DIRECTORY | os.O_DIRECTORY, dir_fd=walk.here)
            except FileNotFoundError:
                fd = _make_directory(walk.here, name, mode, owner)
            walk.enter(fd)
        return os.dup(walk.here)
    finally:
        walk.close()


def read_in_root(root_fd: int, path: Path, limit_bytes: int) -> bytes | None:
    """The content of a regular file inside the root; None when there is none, or something else stands there.

    Raises OSError(EFBIG) over the limit. A FIFO or device is not waited for.
    """
    try:
        fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV):
            return None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    with open(fd, "rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return data


def _steps(walk: _Walk, *, missing_ok: bool = False) -> Iterator[tuple[bytes, bool]]:
    """Each (name, it is the last) that is no dot name and no symlink; a symlink is followed on the way."""
    while walk.left:
        name = walk.left.pop(0)
        if name in (b"", b"."):
            continue
        if name == b"..":
            walk.up()
            continue
        try:
            target = os.readlink(name, dir_fd=walk.here)
        except OSError as error:
            if error.errno != errno.EINVAL and not (missing_ok and error.errno == errno.ENOENT):
                raise
            yield name, not any(part not in (b"", b".") for part in walk.left)
        else:
            walk.follow(target)


def _open_directory(walk: _Walk, name: bytes, *, last: bool) -> int:
    """The next component; all but the last have to be directories."""
    return os.open(name, _DIRECTORY if last else _DIRECTORY | os.O_DIRECTORY, dir_fd=walk.here)


def _make_directory(parent: int, name: bytes, mode: int, owner: tuple[int, int] | None) -> int:
    os.mkdir(name, 0o700, dir_fd=parent)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    if owner is not None:
        os.fchown(fd, *owner)
    os.fchmod(fd, mode)
    return fd


def _components(path: Path) -> list[bytes]:
    return os.fsencode(path).split(b"/")
