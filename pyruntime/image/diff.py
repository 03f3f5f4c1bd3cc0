"""Layers made from what is on disk: an overlay upper directory, or what changed between two trees, as a tar stream.

    upper_layer(upper)        a container's changes: devices 0:0 become whiteouts, opaque directories get their mark
    tree_layer(old, new)      by comparison; old "" gives the whole of new

Same input, same bytes: names sorted, whiteouts before their siblings, PAX records only for what ustar cannot say, no
user names, no access times. The tree may be hostile and is read by descriptor, one component at a time; who calls
keeps it from changing meanwhile (a paused container), a file that shrinks is an error. Sockets are left out.
"""

from __future__ import annotations

import os
import stat
from errno import EINVAL, ELOOP, ENODATA, ENOENT, ENOTDIR
from functools import partial
from typing import TYPE_CHECKING

from pyruntime.errors import ImageError
from pyruntime.image.tar_header import entry_header
from pyruntime.image.unpack_merged import is_whiteout
from pyruntime.image.unpack_report import quoted
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 1 << 18
WHITEOUT, OPAQUE_MARK = b".wh.", b".wh..wh..opq"
OVERLAY = ("trusted.overlay.", "user.overlay.")
LEFT_OUT = ("security.selinux", *OVERLAY)
NOT_PLAIN = ("redirect", "metacopy")  # a name or data that is elsewhere
DEPTH = 1000  # of directories open at a time
# What the kernel says of a name that is something else by now: a link, no link, no directory, nothing.
EXCHANGED = (EINVAL, ELOOP, ENODATA, ENOENT, ENOTDIR)


class Options(Record):
    """`clamp_s`: times later than it become it (SOURCE_DATE_EPOCH), None leaves all."""

    clamp_s: int | None = None


class Node:
    """A name in an open directory and what it is."""

    def __init__(self, path: bytes, name: bytes, parent_fd: int, status: os.stat_result) -> None:
        self.path, self.name, self.parent_fd, self.status = path, name, parent_fd, status

    @property
    def is_dir(self) -> bool:
        """A real directory."""
        return stat.S_ISDIR(self.status.st_mode)

    def open(self, flags: int) -> int:
        """A descriptor of the very file that `status` is of. Raises ImageError when it was exchanged."""
        try:
            fd = os.open(self.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self.parent_fd)
        except OSError as error:
            raise _unreadable(self.path, error) from None
        now = os.fstat(fd)
        if _identity(now) != _identity(self.status):
            os.close(fd)
            raise _exchanged(self.path)
        return fd

    def target(self) -> bytes:
        """Where a symbolic link leads. Raises ImageError when it was exchanged."""
        try:
            return os.readlink(self.name, dir_fd=self.parent_fd)
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def xattrs(self) -> dict[str, bytes]:
        """All but a security module's label. A name in an open directory is reached through its descriptor."""
        place = f"/proc/self/fd/{self.parent_fd}/".encode() + self.name
        try:
            names = sorted(os.listxattr(place, follow_symlinks=False))
            return {name: os.getxattr(place, name, follow_symlinks=False) for name in names if name != LEFT_OUT[0]}
        except OSError as error:
            raise _unreadable(self.path, error) from None


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    """What a file keeps for its life; the number alone may be another's after that."""
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)


def _exchanged(path: bytes) -> ImageError:
    """The error for a name that is not what it was."""
    return ImageError(f"{quoted(path)} was exchanged while it was read", hint="stop or pause what writes there")


def _unreadable(path: bytes, error: OSError) -> ImageError:
    """The error for a name that cannot be read, whose path it has."""
    if error.errno in EXCHANGED:
        return _exchanged(path)
    return ImageError(f"reading {quoted(path)}: {(error.strerror or '').lower()}")


def _nodes(fd: int, path: bytes) -> list[Node]:
    """What is in a directory, by name; no sockets."""
    found = []
    for name in sorted(os.fsencode(name) for name in os.listdir(fd)):
        whole = path + b"/" + name if path else name
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            raise _unreadable(whole, error) from None
        if not stat.S_ISSOCK(status.st_mode):
            found.append(Node(whole, name, fd, status))
    return found


class Writer:
    """Turns nodes into the bytes of a tar; remembers hard links by inode."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.linked: dict[tuple[int, int], bytes] = {}

    def entry(self, node: Node) -> Iterator[bytes]:
        """Header and data of one name. Raises ImageError for a name that no layer can hold."""
        if node.name.startswith(WHITEOUT):
            raise ImageError(f"{quoted(node.path)}: a file named like a whiteout cannot be part of a layer",
                             hint="rename it or remove it before committing")  # fmt: skip
        status = node.status
        xattrs = {name: value for name, value in node.xattrs().items() if not name.startswith(LEFT_OUT)}
        first = self.linked.get((status.st_dev, status.st_ino), b"")
        target = first
        if first:
            kind, xattrs = b"1", {}
        else:
            kind = _kind(status.st_mode)
            target = node.target() if kind == b"2" else b""
            if not node.is_dir and status.st_nlink > 1:
                self.linked[(status.st_dev, status.st_ino)] = node.path
        size = status.st_size if kind == b"0" else 0
        device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in {b"3", b"4"} else (0, 0)
        path = node.path + b"/" if node.is_dir else node.path
        yield entry_header(path, kind, mode=stat.S_IMODE(status.st_mode), size=size, owner=(status.st_uid, status.st_gid),
                           mtime_ns=self.time(status), link=target, device=device, xattrs=xattrs)  # fmt: skip
        if kind == b"0" and size:
            yield from _data(node, size)

    def time(self, status: os.stat_result) -> int:
        """Its modification time in ns, clamped."""
        clamp = self.options.clamp_s
        return status.st_mtime_ns if clamp is None else min(status.st_mtime_ns, clamp * 10**9)

    def mark(self, folder: bytes, name: bytes) -> bytes:
        """A whiteout or an opaque mark."""
        return entry_header(folder + b"/" + name if folder else name, b"0", mode=0o600)

    @staticmethod
    def end() -> bytes:
        """The two blocks of zeros."""
        return bytes(1024)


def _kind(mode: int) -> bytes:
    kinds = {stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFCHR: b"3", stat.S_IFBLK: b"4", stat.S_IFDIR: b"5",
             stat.S_IFIFO: b"6"}  # fmt: skip
    return kinds[stat.S_IFMT(mode)]


def _data(node: Node, size: int) -> Iterator[bytes]:
    fd = node.open(os.O_RDONLY)
    try:
        left = size
        while left:
            chunk = os.read(fd, min(left, CHUNK))
            if not chunk:
                raise ImageError(f"{quoted(node.path)} shrank while it was read", hint="stop or pause what writes there")
            left -= len(chunk)
            yield chunk
    finally:
        os.close(fd)
    yield bytes(-size % 512)


def upper_layer(upper: str, *, lower_root: str = "", options: Options | None = None) -> Iterator[bytes]:
    """The tar of an overlay upper directory.

    With `lower_root` (its merged lower view, or one layer of it) the root directory's attributes come along when they
    differ. Raises ImageError for what is no plain diff.
    """
    writer = Writer(options or Options())
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if lower_root and _attributes(os.stat(lower_root)) != _attributes(os.fstat(fd)):
            yield _root_entry(writer, fd)
        yield from _upper(writer, b"", fd, 0)
        yield writer.end()
    finally:
        os.close(fd)


def _attributes(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid


def _root_entry(writer: Writer, fd: int) -> bytes:
    status = os.fstat(fd)
    return entry_header(b"./", b"5", mode=stat.S_IMODE(status.st_mode), owner=(status.st_uid, status.st_gid),
                        mtime_ns=writer.time(status))  # fmt: skip


def _overlay(node: Node) -> dict[str, bytes]:
    """overlayfs' own attributes of a name, by their last word."""
    return {name.rpartition("overlay.")[2]: value for name, value in node.xattrs().items() if name.startswith(OVERLAY)}


def _fd_overlay(fd: int) -> dict[str, bytes]:
    found = {}
    for name in os.listxattr(fd):
        if name.startswith(OVERLAY):
            found[name.rpartition("overlay.")[2]] = os.getxattr(fd, name)
    return found


def _upper(writer: Writer, path: bytes, fd: int, depth: int) -> Iterator[bytes]:
    own = _fd_overlay(fd)
    if own.get("opaque") == b"y" and path:
        yield writer.mark(path, OPAQUE_MARK)
    nodes = _nodes(fd, path)
    inner = {node.name: _overlay(node) for node in nodes}
    by_attribute = own.get("opaque") == b"x"  # of newer kernels
    gone = [node for node in nodes if is_whiteout(node.status) or (by_attribute and "whiteout" in inner[node.name])]
    for node in gone:
        yield writer.mark(path, WHITEOUT + node.name)
    taken = {node.name for node in gone}
    for node in nodes:
        if node.name in taken:
            continue
        if any(word in inner[node.name] for word in NOT_PLAIN):
            raise ImageError(f"{quoted(node.path)}: upper directory is no plain diff",
                             hint="mount the overlay with redirect_dir=off,metacopy=off")  # fmt: skip
        yield from writer.entry(node)
        if node.is_dir:
            yield from _below(node, depth, partial(_upper, writer, node.path))


def _below(node: Node, depth: int, walk: Callable[[int, int], Iterator[bytes]]) -> Iterator[bytes]:
    if depth > DEPTH:
        raise ImageError(f"{quoted(node.path)}: directories are more than {DEPTH} deep")
    child = node.open(os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield from walk(child, depth + 1)
    finally:
        os.close(child)


def tree_layer(old: str, new: str, *, options: Options | None = None) -> Iterator[bytes]:
    """The tar that makes tree `new` of tree `old`; "" is an empty one."""
    writer = Writer(options or Options())
    new_fd = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    old_fd = os.open(old, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if old else -1
    try:
        if old_fd < 0 or _attributes(os.fstat(old_fd)) != _attributes(os.fstat(new_fd)):
            yield _root_entry(writer, new_fd)
        yield from _changes(writer, b"", old_fd, new_fd, 0)
        yield writer.end()
    finally:
        os.close(new_fd)
        if old_fd >= 0:
            os.close(old_fd)


def _changes(writer: Writer, path: bytes, old_fd: int, new_fd: int, depth: int) -> Iterator[bytes]:
    before = {node.name: node for node in _nodes(old_fd, path)} if old_fd >= 0 else {}
    after = _nodes(new_fd, path)
    for name in sorted(before.keys() - {node.name for node in after}):
        yield writer.mark(path, WHITEOUT + name)
    for node in after:
        earlier = before.get(node.name)
        if not node.is_dir:
            if earlier is None or not _same(earlier, node):
                yield from writer.entry(node)
            continue
        yield from _changed_directory(writer, earlier, node, depth)


def _changed_directory(writer: Writer, earlier: Node | None, node: Node, depth: int) -> Iterator[bytes]:
    """The directory when it differs, or as soon as something in it does; then what is in it."""
    old_fd = earlier.open(os.O_RDONLY | os.O_DIRECTORY) if earlier is not None and earlier.is_dir else -1
    try:
        told = earlier is None or not _same(earlier, node)
        if told:
            yield from writer.entry(node)
        for chunk in _below(node, depth, partial(_changes, writer, node.path, old_fd)):
            if not told:
                told = True
                yield from writer.entry(node)
            yield chunk
    finally:
        if old_fd >= 0:
            os.close(old_fd)


def _same(one: Node, other: Node) -> bool:
    a, b = one.status, other.status
    if (a.st_mode, a.st_uid, a.st_gid, a.st_mtime_ns) != (b.st_mode, b.st_uid, b.st_gid, b.st_mtime_ns):
        return False
    if (a.st_dev, a.st_ino, a.st_ctime_ns) == (b.st_dev, b.st_ino, b.st_ctime_ns):
        return True
    if not one.is_dir and (a.st_size, a.st_rdev) != (b.st_size, b.st_rdev):
        return False
    if one.xattrs() != other.xattrs():
        return False
    if stat.S_ISLNK(a.st_mode):
        return one.target() == other.target()
    return not stat.S_ISREG(a.st_mode) or _same_data(one, other)


def _same_data(one: Node, other: Node) -> bool:
    here = one.open(os.O_RDONLY)
    there = -1
    try:
        there = other.open(os.O_RDONLY)
        while True:
            left, right = os.read(here, CHUNK), os.read(there, CHUNK)
            if left != right:
                return False
            if not left:
                return True
    finally:
        os.close(here)
        if there >= 0:
            os.close(there)
