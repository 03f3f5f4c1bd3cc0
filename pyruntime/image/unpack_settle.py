"""The short pass over an image's layers in order, once all are unpacked; and what an overlay mount of them is told.

Layers are unpacked side by side, each without a view of those below. What needs that view is settled here:

    implied directories    get mode, owner, xattrs and times of the uppermost directory below, else stay 0755 root
    links into lower layers  become copies with all metadata, or an error where nothing is found
    whiteouts              go where there is nothing to hide: a directory that is not merged would show them

Everything is found component by component by descriptor, following no symlink but in our own walk (Merged.find).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pyruntime.errors import UnpackError
from pyruntime.image.unpack_merged import (
    OPEN_DIR,
    Merged,
    Own,
    Seen,
    Trail,
    is_opaque,
    is_whiteout,
    names_of,
    own_trail,
    status_of,
)
from pyruntime.image.unpack_report import LayerResult, Whiteout, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

OURS = ("trusted.overlay.", "user.overlay.", "security.selinux")  # attributes that are not copied
COPY = 1 << 20
HIDDEN_TOLD = 20  # warnings of a layer


@contextmanager
def _times_kept(fd: int) -> Iterator[None]:
    """A directory is as old after a change as before."""
    status = os.fstat(fd)
    yield
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_xattrs(source: int, target: int) -> None:
    for name in os.listxattr(source):
        if not name.startswith(OURS):
            os.setxattr(target, name, os.getxattr(source, name))


def _copy_attributes(source: int, target: int) -> None:
    """Owner, mode, xattrs, then times."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    _copy_xattrs(source, target)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_file(name: bytes, source: int, new: bytes, target: int) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME, dir_fd=source)
    try:
        writer = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            size = os.fstat(reader).st_size
            for begin, end in _data(reader, size):
                _copy_range(reader, writer, begin, end)
            os.ftruncate(writer, size)
            _copy_attributes(reader, writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are no holes."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, at


def _copy_range(reader: int, writer: int, begin: int, end: int) -> None:
    while begin < end:
        try:
            done = os.copy_file_range(reader, writer, min(end - begin, 1 << 30), begin, begin)
        except OSError as error:
            if error.errno not in {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
            done = os.pwrite(writer, os.pread(reader, min(end - begin, COPY), begin), begin)
        if done == 0:
            return
        begin += done


def _copy_node(name: bytes, status: os.stat_result, source: int, new: bytes, target: int) -> None:
    """A symlink, device or fifo. Its xattrs can only be reached by name: through the directories' descriptors."""
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), new, dir_fd=target)
    else:
        os.mknod(new, status.st_mode, status.st_rdev, dir_fd=target)
    os.chown(new, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(new, stat.S_IMODE(status.st_mode), dir_fd=target)
    below, above = f"/proc/self/fd/{source}/".encode() + name, f"/proc/self/fd/{target}/".encode() + new
    for attribute in os.listxattr(below, follow_symlinks=False):
        if not attribute.startswith(OURS):
            value = os.getxattr(below, attribute, follow_symlinks=False)
            os.setxattr(above, attribute, value, follow_symlinks=False)
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


class Settling:
    """One layer on top of those `below` it, top first."""

    def __init__(self, root: str, below: Sequence[str]) -> None:
        self.root = root
        with ExitStack() as opened:
            self.own: Trail[Own] = opened.enter_context(own_trail(root))
            self.lowers = opened.enter_context(Merged(below))
            self.merged = opened.enter_context(Merged([root, *below]))
            self.opened = opened.pop_all()
        self.copies: dict[tuple[int, int], bytes] = {}  # (device, inode) of lower layers' files: their first copy here

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()

    def whiteout(self, one: Whiteout) -> None:
        """It goes where there is nothing to hide."""
        names = names_of(one.directory)
        own = self.own.go(names)
        there = None if own.fd < 0 else status_of(one.name, own.fd)
        if there is None or not is_whiteout(there):
            return
        hides = not own.alone and not is_opaque(own.fd) and self.lowers.trail.go(names).look(one.name) is not None
        if not hides:
            with _times_kept(own.fd):
                os.unlink(one.name, dir_fd=own.fd)

    def link(self, path: bytes, target: bytes) -> None:
        """Raises UnpackError where nothing is found."""
        parent, _, new = path.rpartition(b"/")
        own = self.own.go(names_of(parent))
        there = None if own.fd < 0 else status_of(new, own.fd)
        if own.fd < 0 or (there is not None and not is_whiteout(there)):
            return  # a later entry took the directory, or won the name
        seen = self.merged.find(target)
        if seen is None or stat.S_ISDIR(seen.status.st_mode):
            what = "which is a directory" if seen else "which is not there"
            raise UnpackError(f"{quoted(path)}: hard link to {quoted(target)}, {what}", entry=os.fsdecode(path))
        with _times_kept(own.fd):
            if there is not None:
                os.unlink(new, dir_fd=own.fd)
            self._place(target.rpartition(b"/")[2], seen, path, own.fd)

    def _place(self, name: bytes, seen: Seen, path: bytes, target: int) -> None:
        """A link where the layer has the file itself, or a copy of it by now; else a copy with all metadata."""
        new = path.rpartition(b"/")[2]
        if seen.layer == 0:
            os.link(name, new, src_dir_fd=seen.fd, dst_dir_fd=target, follow_symlinks=False)
            return
        key = seen.status.st_dev, seen.status.st_ino
        if key in self.copies and self._link_copy(self.copies[key], new, target):
            return
        if stat.S_ISREG(seen.status.st_mode):
            _copy_file(name, seen.fd, new, target)
        else:
            _copy_node(name, seen.status, seen.fd, new, target)
        self.copies[key] = path

    def _link_copy(self, copy: bytes, new: bytes, target: int) -> bool:
        """False: that one has as many names as the file system gives."""
        folder, _, name = copy.rpartition(b"/")
        with own_trail(self.root) as trail:
            try:
                os.link(name, new, src_dir_fd=trail.go(names_of(folder)).fd, dst_dir_fd=target, follow_symlinks=False)
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
                return False
        return True

    def implied(self, paths: Sequence[tuple[int, bytes]]) -> list[str]:
        """Attributes from below; warnings.

        A directory has its turn when all below it have had theirs: its mode may forbid to enter it.
        """
        told: list[str] = []
        waiting: list[int] = []  # depths of those on the way down to here
        self.own.cut(0)
        for depth, rest in paths:
            while waiting and waiting[-1] > depth:
                self._leave(waiting.pop(), told)
            self.own.cut(depth)
            self.own.names += names_of(rest)
            waiting.append(len(self.own.names))
        while waiting:
            self._leave(waiting.pop(), told)
        if len(told) > HIDDEN_TOLD:
            told[HIDDEN_TOLD:] = [f"{told[HIDDEN_TOLD]} (and {len(told) - HIDDEN_TOLD - 1} more)"]
        return told

    def _leave(self, depth: int, told: list[str]) -> None:
        self.own.cut(depth)
        own = self.own.here()
        if own.fd < 0 or own.alone:
            return
        names = self.own.names
        here = self.lowers.trail.go(names)
        if here.fds:
            _copy_attributes(here.fds[0][1], own.fd)
        elif names and self.lowers.trail.go(names[:-1]).look(names[-1]):
            told.append(f"{quoted(b'/'.join(names))} of a lower layer is no directory and is hidden by one")


def _settle_opaque_root(root: str, below: Sequence[str]) -> None:
    """What overlayfs would not do for a root: each name below gets a whiteout, or its directory here is opaque."""
    own = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        attribute = is_opaque(own)
        if not attribute:
            return
        with Merged(below) as lowers, _times_kept(own):
            for name in lowers.trail.here().names():
                there = status_of(name, own)
                if there is None:
                    os.mknod(name, stat.S_IFCHR, 0, dir_fd=own)
                elif stat.S_ISDIR(there.st_mode):
                    _make_opaque(own, name, attribute)
    finally:
        os.close(own)


def _make_opaque(parent: int, name: bytes, attribute: str) -> None:
    fd = os.open(name, OPEN_DIR, dir_fd=parent)
    try:
        os.setxattr(fd, attribute, b"y")
        with _times_kept(fd):
            for inner in os.listdir(fd):
                if is_whiteout(os.stat(inner, dir_fd=fd, follow_symlinks=False)):
                    os.unlink(inner, dir_fd=fd)
    finally:
        os.close(fd)


def settle(layers: Sequence[tuple[str, LayerResult]], lowers: Sequence[str] = ()) -> list[str]:
    """Settles layers in their order, base first, on top of `lowers` (top first); returns warnings.

    Raises UnpackError for a hard link to nothing; then none of the layers may be registered. Doing it twice does no harm.
    Whoever calls may change the layers' files: where they are of subordinate ids, that is the namespace's root.
    """
    below = list(lowers)
    warnings: list[str] = []
    for path, result in layers:
        try:
            warnings += _settle_one(path, result, below)
        except OSError as error:
            raise UnpackError(f"settling layer {result.diff_id}: {error}", layer=result.diff_id) from error
        except UnpackError as error:
            error.layer = result.diff_id
            raise
        below.insert(0, path)
    return warnings


def _settle_one(path: str, result: LayerResult, below: list[str]) -> list[str]:
    _settle_opaque_root(path, below)
    with Settling(path, below) as layer:
        for whiteout in result.whiteouts:
            layer.whiteout(whiteout)
        for new, target in result.links:
            layer.link(new, target)
        hidden = layer.implied(result.implied)  # last: the work above changes times
    return [f"layer {result.diff_id[:19]}: {text}" for text in hidden]


def overlay_options(lowers: Sequence[str], upper: str = "", work: str = "", *, user: bool = False) -> str:
    """The option string of an overlay mount: `lowers` top first, `,` `:` and backslash escaped.

    Needs the layers to be plain diffs, so redirect_dir and metacopy are off. The old mount call takes a page: for many
    layers give short relative paths and mount from their folder.
    """

    def escaped(path: str) -> str:
        return "".join("\\" + char if char in "\\:," else char for char in path)

    options = ["lowerdir=" + ":".join(map(escaped, lowers))]
    if upper:
        options += [f"upperdir={escaped(upper)}", f"workdir={escaped(work)}"]
    options += ["userxattr"] if user else ["redirect_dir=off", "metacopy=off"]
    return ",".join(options)
