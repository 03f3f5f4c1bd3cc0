"""Unpacks layers. The bytes meet one confined helper process per layer (unpack_helper.py), never this one.

    with LayerUnpack(path) as layer:
        for chunk in blob:
            layer.write(chunk)
        result = layer.finish()
    # all layers of an image, which may have been unpacked side by side, base first:
    settle([(path, result), ...])

Leaving without finish(), and a failure, empty the target again. The caller compares result.diff_id with the one of the
image's configuration, and only then settles and registers the layer. The modes:

    overlay       for overlay mounts: whiteouts are devices 0:0, opaque directories carry trusted.overlay.opaque
    overlay-user  the same with user.overlay.opaque, for overlay mounts in a user namespace (`userxattr`)
    flat          a whole root file system: every layer on top of the one before, nothing is left to settle. A failure
                  leaves a mixture of two layers, which the caller throws away
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from pyruntime.errors import UnpackError
from pyruntime.image.layers import remove_tree
from pyruntime.image.tar_header import entry_header
from pyruntime.image.unpack_maps import IdMaps, UserNamespace, namespace_for
from pyruntime.image.unpack_report import LayerResult, read_answer
from pyruntime.image.unpack_settle import overlay_options, settle
from pyruntime.record import Record

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from types import TracebackType

__all__ = ["IdMaps", "LayerResult", "LayerUnpack", "Limits", "empty_directory", "overlay_mode", "overlay_options", "settle"]

MODES = ("overlay", "overlay-user", "flat")
HELPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "unpack_helper.py")
PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(HELPER)))  # ours, also where sys.path has it as "" (python -c)
PIPE = 1 << 20  # bytes that may wait for the helper


class Limits(Record):
    """Bounds of one layer. `ratio` is tar to blob, and counts once the tar is over `ratio_from` bytes."""

    entries: int = 4_000_000
    total_bytes: int = 256 << 30
    ratio: int = 400
    ratio_from: int = 1 << 30


DEFAULT_LIMITS = Limits()


class Started(NamedTuple):
    """A running helper: where its bytes go, where its answer comes from."""

    process: subprocess.Popen[bytes]
    pipe: int
    status: socket.socket


def empty_directory(path: str) -> None:
    """Removes all that is in a directory, however deep, following no symlink. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in os.listdir(fd):
            try:
                os.unlink(name, dir_fd=fd)
            except IsADirectoryError:
                remove_tree(os.path.join(path, name))
        if os.listdir(fd):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
    finally:
        os.close(fd)


def clear_in_namespace(path: str, maps: IdMaps) -> None:
    """Removes all that is in a directory, with the rights of the namespace's root and confined to it.

    Raises OSError, UnpackError; then some of it may be gone.
    """
    with LayerUnpack(path, mode="flat", id_maps=maps) as all_gone:
        all_gone.write(entry_header(b".wh..wh..opq", b"0") + bytes(1024))
        all_gone.finish()


def overlay_mode() -> str:
    """The mode for layers of this process's own overlay mounts: a user namespace's root may set no trusted attribute."""
    return "overlay-user" if namespace_for(None).flags else "overlay"


class LayerUnpack:
    """One layer on its way into the empty directory `target_path` (flat: what the layers before made of it).

    `lowers`: unpacked layers below, top first; when given, finish() settles against them. `id_maps`: whose ids the
    files get, for a user namespace; None is this process's own, and for an unprivileged one a single id. `layer` is
    what errors call it. Not for two threads at once.
    """

    def __init__(self, target_path: str, *, mode: str = "overlay", lowers: Sequence[str] = (),
                 limits: Limits = DEFAULT_LIMITS, id_maps: IdMaps | None = None, layer: str = "") -> None:  # fmt: skip
        if mode not in MODES:
            raise UnpackError(f"unpack mode {mode!r} is none of {', '.join(MODES)}", layer=layer)
        self.target_path, self.mode, self.lowers = target_path, mode, tuple(lowers)
        self.limits, self.layer = limits, layer
        self.namespace = namespace_for(id_maps)
        self.started: Started | None = None
        self.finished = False

    def __enter__(self) -> LayerUnpack:
        # a namespace's root may enter what its maker may not read
        access = os.O_PATH if self.mode == "flat" and self.namespace.fresh and os.geteuid() != 0 else os.O_RDONLY
        try:
            target = os.open(self.target_path, access | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UnpackError(f"unpacking to {self.target_path!r}: {error.strerror}", layer=self.layer) from error
        try:
            if self.mode != "flat" and os.listdir(target):
                raise UnpackError(f"unpacking to {self.target_path!r}: directory is not empty", layer=self.layer)
            self.started = self._start(target, self.namespace)
        finally:
            os.close(target)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.finished:
            self._abort()

    def _start(self, target: int, namespace: UserNamespace) -> Started:
        import fcntl
        import socket

        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        limits = self.limits
        words = [target, there.fileno(), MODES.index(self.mode), namespace.flags, limits.entries, limits.total_bytes,
                 limits.ratio, limits.ratio_from, int(namespace.fresh), PACKAGES,
                 *filter(os.path.isabs, sys.path)]  # fmt: skip
        try:
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE)
        except OSError:
            pass  # over the user's share of pipe memory: slower, no more
        try:
            namespace.prepare(target)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", HELPER, *map(str, words)], stdin=reader, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, pass_fds=(target, there.fileno()), env={}, cwd="/",
                start_new_session=True)  # fmt: skip
        except BaseException as error:
            here.close()
            os.close(writer)
            if isinstance(error, OSError):
                raise UnpackError(f"starting the unpacking helper: {error}", layer=self.layer) from error
            raise
        finally:
            there.close()
            os.close(reader)
        started = Started(process, writer, here)
        if namespace.fresh:
            self.started = started
            self._map(started, namespace)
        return started

    def _map(self, started: Started, namespace: UserNamespace) -> None:
        """Gives the helper's user namespace its ids. A helper that died says why in finish()."""
        try:
            if started.status.recv(1) == b"U":
                namespace.write_maps(started.process.pid)
                started.status.send(b"G")
        except OSError as error:
            self._abort()
            raise UnpackError(f"mapping ids for the unpacking helper: {error}", layer=self.layer) from error

    def write(self, chunk: bytes | memoryview) -> None:
        """The next bytes of the blob. Raises UnpackError once the helper has given up."""
        started = self._running()
        view = memoryview(chunk)
        try:
            while view:
                view = view[os.write(started.pipe, view) :]
        except BrokenPipeError:
            self._answer()
            raise UnpackError("the unpacking helper closed its pipe", layer=self.layer) from None

    def feed_fd(self, fd: int) -> None:
        """The rest of the blob, from a descriptor's position to its end, without passing through this process."""
        started = self._running()
        try:
            while os.splice(fd, started.pipe, PIPE):
                pass
        except BrokenPipeError:
            self._answer()
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that cannot splice
                raise
            while chunk := os.read(fd, PIPE):
                self.write(chunk)

    def finish(self) -> LayerResult:
        """The blob is complete: waits for the helper. Raises UnpackError, and the target is empty again (not flat)."""
        result = self._answer()
        if self.lowers and self.mode != "flat":
            warnings = settle([(self.target_path, result)], self.lowers)
            result = result.replace(warnings=result.warnings + tuple(warnings), implied=(), links=(), whiteouts=())
        self.finished = True
        return result

    def _running(self) -> Started:
        if self.started is None:
            raise UnpackError("the layer is not being unpacked (any more)", layer=self.layer)
        return self.started

    def _answer(self) -> LayerResult:
        started = self._running()
        os.close(started.pipe)
        parts = []
        with started.status:
            while part := started.status.recv(1 << 16):
                parts.append(part)
        started.process.wait()
        self.started = None
        try:
            return read_answer(b"".join(parts), self.layer, self.limits.entries)
        except UnpackError:
            self._abort()
            raise

    def _abort(self) -> None:
        started, self.started, self.finished = self.started, None, True
        if started is not None:
            started.process.kill()
            started.process.wait()
            os.close(started.pipe)
            started.status.close()
        if self.mode != "flat":
            self._empty()

    def _empty(self) -> None:
        """Removes what a failed layer left; files of subordinate ids go by a helper in a namespace that has them."""
        try:
            if self.namespace.maps is not None and os.geteuid() != 0:
                clear_in_namespace(self.target_path, self.namespace.maps)
            else:
                empty_directory(self.target_path)
        except OSError as error:
            raise UnpackError(f"removing a failed layer at {self.target_path!r}: {error.strerror}", layer=self.layer,
                              hint="remove the directory by hand") from error  # fmt: skip
