"""Layers on the disk as an overlay mount would show them, by descriptor: no symlink is followed but in Merged.find.

Whoever walks keeps a Trail: the last few directories of its way stay open, so a neighbour costs the steps to it and not
the whole way, however deep both are.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from pyruntime.errors import UnpackError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
SYMLINKS_MAX = 40
DETOUR_FREE, DETOUR_EACH = 100_000, 64  # names walked by way of symlinks: for all look-ups, and more for each
DESCRIPTORS = 512  # of one trail, or KEEP_LEAST directories of all layers
KEEP_LEAST = 4


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


def status_of(name: bytes, fd: int) -> os.stat_result | None:
    """Of a name in a directory, not followed; None when there is none."""
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


class Seen(NamedTuple):
    """The uppermost file of a name: which of the layers has it (0 the top), its directory there, its status."""

    layer: int
    fd: int
    status: os.stat_result


class Place(Protocol):
    """A directory, or none of that name."""

    def enter(self, name: bytes) -> Self:
        """The one below it."""

    def close(self) -> None:
        """Closes its descriptors."""


P = TypeVar("P", bound=Place)


class Own:
    """A directory of the layer itself; `fd` -1 where a later entry took it away.

    `alone`: an opaque one above cuts it off from below. An opaque root has been settled before and cuts nothing off.
    """

    def __init__(self, fd: int, *, alone: bool = False, root: bool = False) -> None:
        self.fd, self.alone, self.root = fd, alone, root

    def enter(self, name: bytes) -> Self:
        """The directory of that name. Raises OSError."""
        if self.fd < 0:
            return self
        alone = self.alone or (not self.root and bool(is_opaque(self.fd)))
        try:
            return type(self)(os.open(name, OPEN_DIR, dir_fd=self.fd), alone=alone)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return type(self)(-1)
            raise

    def close(self) -> None:
        """Closes it."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


class Places:
    """One directory of the merged view: (layer, descriptor), top first; the layers that have it and are not hidden."""

    def __init__(self, fds: list[tuple[int, int]], *, root: bool = False) -> None:
        self.fds, self.root = fds, root

    def close(self) -> None:
        """Closes them all."""
        for _, fd in self.fds:
            os.close(fd)
        self.fds = []

    def names(self) -> list[bytes]:
        """All names in it. Each is looked at in the uppermost layer that has it."""
        seen: set[bytes] = set()
        found = []
        for _, fd in self.fds:
            for name in map(os.fsencode, os.listdir(fd)):
                if name in seen:
                    continue
                seen.add(name)
                status = status_of(name, fd)
                if status is not None and not is_whiteout(status):
                    found.append(name)
            if not self.root and is_opaque(fd):
                break
        return found

    def look(self, name: bytes) -> Seen | None:
        """The uppermost of that name; None also for a whiteout."""
        for layer, fd in self.fds:
            status = status_of(name, fd)
            if status is not None:
                return None if is_whiteout(status) else Seen(layer, fd, status)
            if not self.root and is_opaque(fd):
                return None
        return None

    def enter(self, name: bytes) -> Self:
        """The directory of that name, empty when there is none."""
        found: list[tuple[int, int]] = []
        for layer, fd in self.fds:
            status = status_of(name, fd)
            if status is not None:
                if not stat.S_ISDIR(status.st_mode):
                    break
                found.append((layer, os.open(name, OPEN_DIR, dir_fd=fd)))
                if is_opaque(found[-1][1]):
                    break
            if not self.root and is_opaque(fd):
                break
        return type(self)(found)


class Trail(Generic[P]):
    """A way down from `root`, which it owns. `names` is where it has got to; what is open of it is the end of the way."""

    def __init__(self, root: P, layers: int) -> None:
        self.names: list[bytes] = []
        self.open: list[tuple[int, P]] = [(0, root)]
        self.keep = max(KEEP_LEAST, DESCRIPTORS // max(layers, 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for _, place in self.open:
            place.close()
        self.open = []

    def cut(self, depth: int) -> None:
        """Goes up until the path has so many names."""
        del self.names[depth:]
        while self.open[-1][0] > depth:
            self.open.pop()[1].close()

    def here(self) -> P:
        """The directory at the end of `names`, good until the next call."""
        depth, place = self.open[-1]
        while depth < len(self.names):
            place = place.enter(self.names[depth])
            depth += 1
            self.open.append((depth, place))
            if len(self.open) > self.keep:
                self.open.pop(1)[1].close()  # the root stays
        return place

    def go(self, path: Sequence[bytes]) -> P:
        """The directory of a whole path."""
        same = 0
        for one, other in zip(self.names, path):
            if one != other:
                break
            same += 1
        self.cut(same)
        self.names += path[same:]
        return self.here()


def own_trail(root: str) -> Trail[Own]:
    """The layer itself. Raises OSError."""
    return Trail(Own(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), root=True), 1)


def names_of(path: bytes) -> list[bytes]:
    """Of a canonical path; none for the root."""
    return path.split(b"/") if path else []


class Merged:
    """The view of some layers, top first, as an overlay mount gives it."""

    def __init__(self, paths: Sequence[str]) -> None:
        root = Places([], root=True)  # overlayfs knows no opaque root
        self.trail = Trail(root, len(paths))
        try:
            for layer, path in enumerate(paths):
                root.fds.append((layer, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
        except BaseException:
            root.close()
            raise
        self.detour = DETOUR_FREE
        self.known: tuple[bytes, list[bytes] | None] | None = None  # the last one looked for

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.trail.__exit__()

    def find(self, path: bytes) -> Seen | None:
        """A file by a path whose parents may be symlinks, followed inside the root; not followed itself. Raises UnpackError.

        Its descriptor is good until the next look-up.
        """
        self.detour += DETOUR_EACH
        parent, _, last = path.rpartition(b"/")
        if self.known is None or self.known[0] != parent:
            self.known = parent, self._directory(parent)
        folder = self.known[1]
        return None if folder is None or last in {b"", b".", b".."} else self.trail.go(folder).look(last)

    def _directory(self, path: bytes) -> list[bytes] | None:
        """The canonical path of a directory; None when there is none."""
        done: list[bytes] = []
        rest = [name for name in reversed(path.split(b"/")) if name not in {b"", b"."}]
        followed = 0
        while rest:
            name = rest.pop()
            if followed:
                self._count(path)
            if name in {b"..", b".", b""}:
                del done[len(done) - (name == b"..") :]
                continue
            seen = self.trail.go(done).look(name)
            if seen is None:
                return None
            if stat.S_ISDIR(seen.status.st_mode):
                done.append(name)
                continue
            followed += 1
            if not stat.S_ISLNK(seen.status.st_mode) or followed > SYMLINKS_MAX:
                return None
            text = os.readlink(name, dir_fd=seen.fd)
            if text.startswith(b"/"):
                done.clear()
            rest += reversed(text.split(b"/"))
        return done

    def _count(self, path: bytes) -> None:
        self.detour -= 1
        if self.detour < 0:
            raise UnpackError("layer takes too long a way through symlinks", entry=os.fsdecode(path),
                              hint="links to links to deep directories: do not trust it")  # fmt: skip
