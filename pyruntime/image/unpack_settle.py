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
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyruntime.errors import UnpackError
from pyruntime.image.unpack_report import LayerResult, Whiteout, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
OURS = ("trusted.overlay.", "user.overlay.", "security.selinux")  # attributes that are not copied
OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
SYMLINKS_MAX = 40
COPY = 1 << 20


def is_whiteout(status: os.stat_result) -> bool:
    """A device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(fd: int) -> str:
    """The attribute by which a directory hides those below it, or ""."""
    for name in OPAQUE:
        try:
            if os.getxattr(fd, name) == b"y":
                return name
        except OSError:
            continue
    return ""


@contextmanager
def _times_kept(fd: int) -> Iterator[None]:
    """A directory is as old after a change as before."""
    status = os.fstat(fd)
    yield
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def _status(name: bytes, fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


class Places:
    """One directory of the merged view: its descriptors, top first; the layers that have it and are not hidden."""

    def __init__(self, fds: list[int], *, root: bool = False) -> None:
        self.fds, self.root = fds, root

    def close(self) -> None:
        """Closes them all."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def names(self) -> set[bytes]:
        """All names in it."""
        return {os.fsencode(name) for fd in self.fds for name in os.listdir(fd) if self.look(os.fsencode(name))}

    def look(self, name: bytes) -> tuple[int, os.stat_result] | None:
        """(descriptor of the layer's directory, status) of the uppermost that has the name; None also for a whiteout."""
        for fd in self.fds:
            status = _status(name, fd)
            if status is not None:
                return None if is_whiteout(status) else (fd, status)
            if not self.root and is_opaque(fd):
                return None
        return None

    def enter(self, name: bytes) -> Places:
        """The directory of that name, empty when there is none."""
        found: list[int] = []
        for fd in self.fds:
            status = _status(name, fd)
            if status is not None:
                if not stat.S_ISDIR(status.st_mode):
                    break
                found.append(os.open(name, OPEN_DIR, dir_fd=fd))
                if is_opaque(found[-1]):
                    break
            if not self.root and is_opaque(fd):
                break
        return Places(found)


class Merged:
    """The view of some layers, top first, as an overlay mount gives it."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def root(self) -> Places:
        """The root: that of every layer, overlayfs knows no opaque one."""
        return Places([os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in self.paths], root=True)

    def directory(self, path: bytes) -> Places:
        """A directory by its canonical path; the caller closes it."""
        here = self.root()
        for name in filter(None, path.split(b"/")):
            below = here.enter(name)
            here.close()
            here = below
        return here

    def find(self, path: bytes) -> tuple[Places, bytes] | None:
        """(directory, last name) of a path whose parents may be symlinks, followed inside the root. The caller closes."""
        done: list[bytes] = []
        rest = [name for name in reversed(path.split(b"/")) if name not in {b"", b"."}]
        followed = 0
        while len(rest) > 1:
            name = rest.pop()
            if name in {b"..", b".", b""}:
                del done[len(done) - (name == b"..") :]
                continue
            here = self.directory(b"/".join(done))
            try:
                seen = here.look(name)
                if seen is None:
                    return None
                fd, status = seen
                if stat.S_ISDIR(status.st_mode):
                    done.append(name)
                    continue
                if not stat.S_ISLNK(status.st_mode):
                    return None
                followed += 1
                if followed > SYMLINKS_MAX:
                    return None
                text = os.readlink(name, dir_fd=fd)
            finally:
                here.close()
            if text.startswith(b"/"):
                done.clear()
            rest += reversed(text.split(b"/"))
        return (self.directory(b"/".join(done)), rest[0]) if rest else None


def _own_directory(root: str, path: bytes) -> tuple[int, bool] | None:
    """A directory of the layer itself by its canonical path, and whether an opaque one above it cuts it off from below.

    None when a later entry took it away.
    """
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    alone = False
    for depth, name in enumerate(filter(None, path.split(b"/"))):
        alone = alone or (depth > 0 and bool(is_opaque(fd)))
        try:
            below = os.open(name, OPEN_DIR, dir_fd=fd)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return None
            raise
        finally:
            os.close(fd)
        fd = below
    return fd, alone


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


def _settle_implied(root: str, path: bytes, lowers: Merged) -> str:
    """A warning, or ""."""
    found = _own_directory(root, path)
    if found is None:
        return ""
    own, alone = found
    try:
        if alone:
            return ""
        parent, _, name = path.rpartition(b"/")
        here = lowers.directory(path)
        try:
            if here.fds:
                _copy_attributes(here.fds[0], own)
                return ""
        finally:
            here.close()
        above = lowers.directory(parent)
        try:
            hidden = above.look(name) if path else None
        finally:
            above.close()
        return f"{quoted(path)} of a lower layer is no directory and is hidden by one" if hidden else ""
    finally:
        os.close(own)


def _settle_link(root: str, path: bytes, target: bytes, lowers: Sequence[str]) -> None:
    found = Merged((root, *lowers)).find(target)
    places, name = found or (Places([]), b"")
    parent, _, new = path.rpartition(b"/")
    here = _own_directory(root, parent)
    try:
        if here is None:
            return
        own = here[0]
        there = _status(new, own)
        if there is not None and not is_whiteout(there):
            return  # a later entry of that name won
        seen = places.look(name)
        if seen is None or stat.S_ISDIR(seen[1].st_mode):
            what = "which is a directory" if seen else "which is not there"
            raise UnpackError(f"{quoted(path)}: hard link to {quoted(target)}, {what}", entry=os.fsdecode(path))
        with _times_kept(own):
            if there is not None:
                os.unlink(new, dir_fd=own)
            _place_link(root, (name, *seen), new, own)
    finally:
        places.close()
        if here is not None:
            os.close(here[0])


def _place_link(root: str, found: tuple[bytes, int, os.stat_result], new: bytes, target: int) -> None:
    """A link where the file is of the layer itself, else a copy with all metadata."""
    name, fd, status = found
    if _is_in(root, fd):
        os.link(name, new, src_dir_fd=fd, dst_dir_fd=target, follow_symlinks=False)
    elif stat.S_ISREG(status.st_mode):
        _copy_file(name, fd, new, target)
    else:
        _copy_node(name, status, fd, new, target)


def _is_in(root: str, fd: int) -> bool:
    """Whether a directory's descriptor is of the layer itself."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    real = os.path.realpath(root)
    return path == real or path.startswith(real + "/")


def _settle_whiteout(root: str, whiteout: Whiteout, lowers: Merged) -> None:
    found = _own_directory(root, whiteout.directory)
    if found is None:
        return
    own, alone = found
    try:
        there = _status(whiteout.name, own)
        if there is None or not is_whiteout(there):
            return
        below = lowers.directory(whiteout.directory)
        try:
            hides = not alone and not is_opaque(own) and below.look(whiteout.name) is not None
        finally:
            below.close()
        if not hides:
            with _times_kept(own):
                os.unlink(whiteout.name, dir_fd=own)
    finally:
        os.close(own)


def _settle_opaque_root(root: str, lowers: Merged) -> None:
    """What overlayfs would not do for a root: each name below gets a whiteout, or its directory here is opaque."""
    own = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    below = lowers.root()
    try:
        attribute = is_opaque(own)
        if not attribute:
            return
        with _times_kept(own):
            for name in below.names():
                there = _status(name, own)
                if there is None:
                    os.mknod(name, stat.S_IFCHR, 0, dir_fd=own)
                elif stat.S_ISDIR(there.st_mode):
                    _make_opaque(own, name, attribute)
    finally:
        below.close()
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
    lowers = Merged(below)
    _settle_opaque_root(path, lowers)
    for whiteout in result.whiteouts:
        _settle_whiteout(path, whiteout, lowers)
    for new, target in result.links:
        _settle_link(path, new, target, below)
    # last, and children first: the work above and inside changes times
    hidden = [_settle_implied(path, name, lowers) for name in sorted(result.implied, reverse=True)]
    return [f"layer {result.diff_id[:19]}: {text}" for text in hidden if text]


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
