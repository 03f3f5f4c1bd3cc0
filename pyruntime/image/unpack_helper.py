"""The confined process that unpacks one layer: a program, run by unpack.py with -I -S, never imported.

    pipe -> read -> inflate -+-> SHA-256 of the tar   (thread)
                             +-> csrc/unpack.c        (thread)

The three run side by side without Python's lock and pass on pieces of at most CHUNK bytes, DEPTH at a time, so memory
does not grow with the layer. Everything is imported before the process confines itself; afterwards its root is the
target and there is nothing left to import (csrc/unpack_confine.c). The answer is one message of texts that end in NUL,
each with a letter before it: those of unpack_report, and D DiffID, S size of the tar, R bytes read, Z what failed here.
"""

from __future__ import annotations

import _thread
import posix
import sys
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

READ = 1 << 18  # bytes asked of the pipe at a time
FIRST = 1 << 9  # given to a member of the blob when it begins
CHUNK = 1 << 20  # at most so many at a time out of a decompressor
DEPTH = 8  # pieces on their way to each thread
MEMORY = 2 << 30  # address space: xz and zstd may ask for windows of 128 MiB
FILES = 4096  # descriptors: one per level of a tree that is removed
LZMA_MEMORY = 512 << 20

GZIP, ZSTD, BZIP2, XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00"


class Refused(Exception):
    """The layer is no good; the text is for people."""


class Blob:
    """What the pipe gives, with the bytes counted."""

    def __init__(self) -> None:
        self.count = 0

    def read(self) -> bytes:
        """The next bytes, b"" at the end."""
        data = posix.read(0, READ)
        self.count += len(data)
        return data

    def begin(self) -> bytes:
        """Enough bytes to tell the format, fewer only when there are no more."""
        head = self.read()
        while 0 < len(head) < 6:
            more = self.read()
            if not more:
                break
            head += more
        return head


class Decompressors:
    """The best of each kind that is installed, loaded now."""

    def __init__(self) -> None:
        import bz2
        import lzma

        self.gzip = _gzip()
        self.zstd = _zstd()
        self.bzip2: Callable[[], Any] = bz2.BZ2Decompressor
        self.xz: Callable[[], Any] = lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LZMA_MEMORY)
        self.errors: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, lzma.LZMAError, *_ERRORS)

    def of(self, head: bytes) -> tuple[str, Callable[[], Any]] | None:
        """(name, maker) for a blob that begins so; None for a plain tar."""
        if head.startswith(GZIP):
            return "gzip", self.gzip
        if head.startswith(ZSTD) or (len(head) > 3 and head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
            if self.zstd is None:
                raise Refused("layer is zstd and neither compression.zstd nor backports.zstd is installed")
            return "zstd", self.zstd
        if head.startswith(BZIP2):
            return "bzip2", self.bzip2
        return ("xz", self.xz) if head.startswith(XZ) else None


_ERRORS: list[type[Exception]] = []


class Inflate:
    """zlib's decompressor with the interface of bz2's: `decompress(data, limit)`, needs_input, eof, unused_data."""

    def __init__(self) -> None:
        import zlib

        self.inner = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes more."""
        return self.inner.decompress(self.inner.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        """Whether more can only come of more data."""
        return not self.inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""
        return self.inner.eof

    @property
    def unused_data(self) -> bytes:
        """What came after it."""
        return self.inner.unused_data


def _gzip() -> Callable[[], Any]:
    try:
        from isal import igzip_lib
    except ImportError:
        import zlib

        _ERRORS.append(zlib.error)
        return Inflate
    failed: Any = igzip_lib.error  # its stubs call it a value
    _ERRORS.append(failed)
    return lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)


def _zstd() -> Callable[[], Any] | None:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        return None
    _ERRORS.append(zstd.ZstdError)
    return zstd.ZstdDecompressor


def pieces(blob: Blob, known: Decompressors) -> Iterator[bytes]:
    """The tar, in pieces. Raises Refused for data that do not decompress or go on behind their end."""
    head = blob.begin()
    kind = known.of(head)
    if kind is None:
        while head:
            yield head
            head = blob.read()
        return
    name, make = kind
    try:
        yield from _members(blob, head, name, make)
    except known.errors as error:
        raise Refused(f"layer does not decompress as {name}: {error}") from error


def _members(blob: Blob, data: bytes, name: str, make: Callable[[], Any]) -> Iterator[bytes]:
    """Members or frames one after the other; zeros may follow the last.

    A member is given more and more at a time: what a short one leaves over is not copied over and over.
    """
    whole, at = memoryview(data), 0
    while at < len(whole):
        member, size = make(), FIRST
        while not member.eof:
            if at == len(whole):
                whole, at = memoryview(blob.read()), 0
                if not whole:
                    raise Refused(f"layer ends inside its {name} data")
            given: bytes | memoryview = whole[at : at + size]
            at, size = at + len(given), min(2 * size, READ)
            while True:
                piece = member.decompress(given, CHUNK)
                if piece:
                    yield piece
                if member.needs_input or member.eof:
                    break
                given = b""
        whole, at = _after_zeros(blob, whole, at - len(member.unused_data))


def _after_zeros(blob: Blob, whole: memoryview, at: int) -> tuple[memoryview, int]:
    """Where the next byte that is no zero lies; at the end of what is read when there is none."""
    while True:
        if at == len(whole):
            whole, at = memoryview(blob.read()), 0
            if not whole:
                return whole, 0
        some = bytes(whole[at : at + FIRST])
        other = some.lstrip(b"\0")
        at += len(some) - len(other)
        if other:
            return whole, at


class Thread:
    """A function called for each piece, in a thread of its own; at most DEPTH pieces wait for it."""

    def __init__(self, call: Callable[[bytes], object]) -> None:
        self.call = call
        queue: Any = sys.modules["_queue"]
        self.work, self.room = queue.SimpleQueue(), queue.SimpleQueue()
        self.done = _thread.allocate_lock()
        self.failure: BaseException | None = None
        for _ in range(DEPTH):
            self.room.put(None)
        self.done.acquire()

    def put(self, piece: bytes) -> None:
        """Waits for room, then hands the piece over."""
        self.room.get()
        self.work.put(piece)

    def run(self) -> None:
        """The thread: to the end also after a failure, so that `put` never waits in vain."""
        while (piece := self.work.get()) is not None:
            if self.failure is None:
                try:
                    if self.call(piece):
                        self.failure = Refused("")
                except BaseException as error:  # noqa: BLE001 - carried to the thread that waits for this one
                    self.failure = error
            self.room.put(None)
        self.done.release()

    def finish(self) -> None:
        """Waits until all pieces are done."""
        self.work.put(None)
        self.done.acquire()


class Limits:
    """Bounds of what comes out: a total, and a ratio to what went in that counts from `free` bytes on."""

    def __init__(self, total: int, ratio: int, free: int) -> None:
        self.total, self.ratio, self.free = total, ratio, free
        self.size = 0

    def add(self, size: int, read: int) -> None:
        """Counts a piece. Raises Refused over a limit."""
        self.size += size
        if self.size > self.total:
            raise Refused(f"layer unpacks to more than the limit of {self.total} bytes")
        if self.size > self.free and self.size > self.ratio * read:
            raise Refused(f"layer unpacks to more than {self.ratio} times its size")


class Job:
    """One layer: all that it needs loaded, then confined, then run."""

    def __init__(self, words: list[str]) -> None:
        self.target, self.status, mode, flags = (int(word) for word in words[:4])
        entries, total, ratio, free = (int(word) for word in words[4:8])
        self.user_namespace = words[8] == "1"
        sys.path[:] = words[9:]
        import _queue  # noqa: F401 - a file of its own, out of reach later
        import hashlib
        import resource

        from pyruntime.native._unpack import ffi, lib

        self.ffi, self.lib = ffi, lib
        self.resource = resource
        self.hash: Any = hashlib.sha256()
        self.hash.copy().update(b"\0" * 4096)
        self.known = Decompressors()
        self.limits = Limits(total, ratio, free)
        self.settings = (mode, flags, entries, total)

    def confine(self) -> int:
        """A descriptor of the new root. Raises OSError."""
        if self.user_namespace:
            _check(self.lib.unpack_user_namespace(self.status))
        _check(self.lib.unpack_confine(self.target))
        posix.close(self.target)
        sys.path.clear()
        sys.meta_path.clear()
        sys.path_hooks.clear()
        return posix.open("/", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)

    def run(self, root: int) -> bytes:
        """The answer."""
        mode, flags, entries, total = self.settings
        unpack = self.lib.unpack_new(root, mode, flags, entries, total)
        if unpack == self.ffi.NULL:
            raise MemoryError
        feed, from_buffer = self.lib.unpack_feed, self.ffi.from_buffer
        hasher = Thread(self.hash.update)
        writer = Thread(lambda piece: feed(unpack, from_buffer(piece), len(piece)))
        blob = Blob()
        words: list[bytes] = []
        try:
            self.pump(blob, hasher, writer)
            if writer.failure is None:
                self.lib.unpack_finish(unpack)
        except Refused as error:
            words.append(b"Z" + str(error).encode())
        words += [b"D" + self.hash.hexdigest().encode(), b"S%d" % self.limits.size, b"R%d" % blob.count]
        text = self.ffi.new("char **")
        size = self.lib.unpack_report(unpack, text)
        return b"".join(word + b"\0" for word in words) + bytes(self.ffi.buffer(text[0], size))

    def pump(self, blob: Blob, hasher: Thread, writer: Thread) -> None:
        """Runs the threads until the blob ends or one of them fails."""
        threads = (hasher, writer)
        for thread in threads:
            _thread.start_new_thread(thread.run, ())
        try:
            for piece in pieces(blob, self.known):
                self.limits.add(len(piece), blob.count)
                for thread in threads:
                    thread.put(piece)
                    if thread.failure is not None:
                        return
        finally:
            for thread in threads:
                thread.finish()
        for thread in threads:
            if thread.failure is not None and not isinstance(thread.failure, Refused):
                raise thread.failure


def _check(result: int) -> None:
    """Raises OSError for -(1000 * step + errno)."""
    if result < 0:
        step, number = divmod(-result, 1000)
        raise OSError(number, ("id maps", "own root", "capabilities", "system call filter")[min(step, 3)])


def limit_resources(resource: Any) -> None:
    """No core, bounded memory and descriptors."""
    for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_NOFILE, FILES)):
        hard = resource.getrlimit(kind)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, bound))


def send(status: int, answer: bytes) -> None:
    """Writes it all; the pipe that feeds this process is closed first, so that no one waits for both."""
    posix.close(0)
    view = memoryview(answer)
    while view:
        view = view[posix.write(status, view) :]


def main(words: list[str]) -> None:
    """Runs one job and exits without the interpreter's clean-up, which might look for files."""
    began = monotonic()
    status = int(words[1])
    posix.umask(0)
    job: Job | None = None
    try:
        job = Job(words)
        limit_resources(job.resource)
        root = job.confine()
        answer = job.run(root)
    except BaseException as error:  # noqa: BLE001 - the outermost frame
        answer = b"Z" + f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace") + b"\0"
    if job is not None:
        usage = job.resource.getrusage(job.resource.RUSAGE_SELF)
        answer += b"T%.6f %.6f %d\0" % (monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
    send(status, answer)
    posix._exit(0)  # noqa: SLF001 - its public name


if __name__ == "__main__":
    main(sys.argv[1:])
