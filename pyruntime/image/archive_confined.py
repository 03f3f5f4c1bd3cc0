"""An archive's compression taken off by a confined helper process: the bytes of strangers meet no decompressor here.

    with inflated(read) as plain:
        plain(65536)

Plain input starts no process. One thread does it all: while output is waited for, input goes out.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyruntime.errors import HostError, InvalidImage
from pyruntime.image.archive_inflate import CHUNK_BYTES, LIMIT_BYTES, peek, sniff
from pyruntime.image.unpack import PACKAGES
from pyruntime.image.unpack_maps import namespace_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.image.archive_inflate import Read

HELPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "archive_helper.py")


@contextmanager
def inflated(read: Read, *, limit_bytes: int = LIMIT_BYTES) -> Iterator[Read]:
    """A reader of what `read` gives without its outer compression, known by its first bytes.

    Raises InvalidImage, also from the reader, for damaged input and past `limit_bytes`; HostError when no helper can
    be started.
    """
    head, whole = peek(read)
    if not sniff(head):
        yield whole
        return
    folder = tempfile.mkdtemp(prefix="pyruntime-inflate-")
    try:
        with _Helper(folder, whole, limit_bytes) as helper:
            yield helper.read
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Helper:
    """The running process; `read` feeds it and gives what comes out."""

    def __init__(self, folder: str, source: Read, limit_bytes: int) -> None:
        self._source, self._pending = source, memoryview(b"")
        self._ended = False
        namespace = namespace_for(None)
        target = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._start(target, [str(int(namespace.fresh)), str(limit_bytes)])
            if namespace.fresh and self._status.recv(1) == b"U":
                namespace.write_maps(self._process.pid)
                self._status.send(b"G")
        except OSError as error:
            raise HostError(f"starting the inflating helper: {error.strerror}", errno=error.errno or 0) from None
        finally:
            os.close(target)

    def _start(self, target: int, words: list[str]) -> None:
        import socket

        self._status, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        paths = [PACKAGES, *filter(os.path.isabs, sys.path)]
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", HELPER, str(target), str(there.fileno()), *words, *paths],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                pass_fds=(target, there.fileno()), env={}, cwd="/", start_new_session=True)  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: int = self._process.stdin.fileno()
        self._out: int = self._process.stdout.fileno()
        os.set_blocking(self._in, False)

    def __enter__(self) -> _Helper:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._close_input()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._status.close()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, b"" at the end."""
        while not self._ended:
            poll = select.poll()
            poll.register(self._out, select.POLLIN)
            if self._process.stdin is not None:
                poll.register(self._in, select.POLLOUT)
            ready = dict(poll.poll())
            if ready.get(self._out):
                data = os.read(self._out, size)
                self._ended = not data
                if data:
                    return data
                self._verdict()
            elif ready.get(self._in):
                self._feed()
        return b""

    def _feed(self) -> None:
        if not self._pending:
            self._pending = memoryview(self._source(CHUNK_BYTES))
            if not self._pending:
                self._close_input()
                return
        try:
            self._pending = self._pending[os.write(self._in, self._pending) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # it has given up, or has all it needs: its verdict follows
            self._close_input()

    def _close_input(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
            self._process.stdin = None

    def _verdict(self) -> None:
        """Raises InvalidImage unless the helper said that all was well."""
        self._close_input()
        parts = []
        while part := self._status.recv(1 << 12):
            parts.append(part)
        said = b"".join(parts)
        if said != b"\0":
            text = said.decode("utf-8", "replace") or "the inflating helper process died"
            raise InvalidImage(text.splitlines()[0], hint="is the file complete?")


