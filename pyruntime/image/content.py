"""Content on its way in, and out again: one writer per digest over all processes, parts that survive their writer.

    open(ingest/ALG-HEX) + flock     the part file is the lock of its digest
    write, hash                      a part that was kept is hashed first
    link as blobs/ALG/HEX, row       the part keeps its name, and so the lock, until the row is there
    unlink the part                  a file without a row is swept
    removal                          row first, file second, under the lock as well

Whoever waited for the lock finds the row and has nothing to do. Bytes are on stable storage when commit_image has
called syncfs; until then the row says so.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from typing import TYPE_CHECKING

from pyruntime.errors import DigestMismatch, StoreError
from pyruntime.image.core import disk_errors
from pyruntime.image.digest import Hasher, algorithm_of, verify
from pyruntime.image.locks import lock_file
from pyruntime.image.room import is_low

if TYPE_CHECKING:
    import sqlite3
    import threading
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from pyruntime.image.core import Core

CHUNK_BYTES = 1 << 20
LOCKS_MAX = 200


class Lease:
    """What is written or claimed under it is not collected before it ends, or its process does."""

    def __init__(self, number: int) -> None:
        self.id = number


def claim_blob(core: Core, digest: str, lease: Lease) -> bool:
    """The content is there, and stays as long as the lease."""
    with core.database.write(durable=False) as rows:
        if not rows.execute("SELECT 1 FROM blobs WHERE digest = ?", (digest,)).fetchone():
            return False
        rows.execute("INSERT OR IGNORE INTO claims VALUES(?, 'blob', ?)", (lease.id, digest))
    return True


def add_blob(core: Core, path: str, digest: str, size: int, lease: Lease) -> None:
    """Makes the file at `path`, which the caller has checked, the content of `digest`; the digest's lock is held.

    `path` may be the part that is the lock: its name goes last, a rename would let the next writer in before the row.
    """
    with disk_errors("storing content"):
        unlink_if_there(core.blob_file(digest))  # left without a row by a writer that was killed
        os.link(path, core.blob_file(digest))
    try:
        with core.database.write(durable=False) as rows:
            rows.execute("INSERT INTO blobs VALUES(?, ?, ?, 0)", (digest, size, time.time_ns()))
            rows.execute("INSERT OR IGNORE INTO claims VALUES(?, 'blob', ?)", (lease.id, digest))
    except StoreError:  # the disk is full
        unlink_if_there(core.blob_file(digest))
        raise
    os.unlink(path)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """All of `data`, in as many calls as it takes."""
    view = memoryview(data).cast("B")
    with disk_errors("storing content"):
        while view.nbytes:
            view = view[os.write(fd, view) :]


class Ingest:
    """Content with a known digest on its way in; the one writer of it over all processes.

    `complete`: the content is in the store already, nothing is to be written. `offset`: bytes kept of an earlier try,
    which the running hash has taken in. `resumed`: offset was not 0 at the beginning. Leaving without commit keeps
    the part, but on a full disk.
    """

    def __init__(self, core: Core, digest: str, size: int, lease: Lease, cancel: threading.Event | None) -> None:
        self.digest = digest
        self.size = size
        self.complete = False
        self.resumed = False
        self._core = core
        self._lease = lease
        self._cancel = cancel
        self._fd = -1
        self._path = core.part_file(digest)
        self._hasher = Hasher(algorithm_of(digest))

    @property
    def offset(self) -> int:
        """Bytes that are there."""
        return self._hasher.size

    def __enter__(self) -> Ingest:
        with disk_errors("storing content"):
            fd = lock_file(self._path, cancel=self._cancel)
        assert fd is not None
        self._fd = fd
        try:
            self._begin()
        except BaseException:
            self._leave()
            raise
        return self

    def _begin(self) -> None:
        self.complete = claim_blob(self._core, self.digest, self._lease)
        if self.complete:
            os.unlink(self._path)
            self._leave()
            return
        if os.fstat(self._fd).st_size > self.size:
            os.ftruncate(self._fd, 0)
        for data in self.read_partial():
            self._hasher.update(data)
        os.lseek(self._fd, self.offset, os.SEEK_SET)
        self.resumed = self.offset > 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._fd >= 0:
            if self.offset == 0 or is_low(self._core.root):
                os.unlink(self._path)
            self._leave()

    def _leave(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read_partial(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The bytes kept so far, from the first."""
        at = 0
        while data := os.pread(self._fd, chunk_bytes, at):
            at += len(data)
            yield data

    def restart(self) -> None:
        """Drops what was kept: offset is 0."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hasher = Hasher(algorithm_of(self.digest))
        self.resumed = False

    def write(self, data: bytes | memoryview) -> None:
        """Appends. Raises DigestMismatch past `size`; then nothing is kept."""
        length = len(data) if isinstance(data, bytes) else data.nbytes
        if self.offset + length > self.size:
            self.restart()
            raise DigestMismatch(f"content of {self.digest} is longer than its {self.size} bytes", value=self.digest,
                                 hint="the sender is at fault; nothing was kept")
        write_all(self._fd, data)
        self._hasher.update(data)

    def commit(self) -> None:
        """Checks size and digest and makes the content part of the store, claimed by the lease.

        Raises DigestMismatch; then nothing is kept, and a resumed transfer may be tried once more from the start.
        """
        if self.offset != self.size:
            found = self.offset
            self.restart()
            raise DigestMismatch(f"content of {self.digest} has {found} bytes, expected {self.size}", value=self.digest)
        digest = self._hasher.digest()
        if digest != self.digest:
            self.restart()
            raise DigestMismatch(f"content does not match its digest: expected {self.digest}, got {digest}",
                                 value=self.digest, hint="nothing was kept: try again, or ask who serves it")
        add_blob(self._core, self._path, self.digest, self.size, self._lease)
        self.complete = True
        self._leave()


class NewBlob:
    """Content whose digest is not known yet. `commit` names it; leaving without it keeps nothing."""

    def __init__(self, core: Core, lease: Lease, algorithm: str) -> None:
        self._core = core
        self._lease = lease
        self._hasher = Hasher(algorithm)
        self._fd = -1
        self._path = f"{core.root}/ingest/new-{secrets.token_hex(8)}"

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._hasher.size

    def __enter__(self) -> NewBlob:
        with disk_errors("storing content"):
            fd = lock_file(self._path)  # a sweep leaves alone what is locked
        assert fd is not None
        self._fd = fd
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._fd >= 0:
            os.unlink(self._path)
            os.close(self._fd)
            self._fd = -1

    def write(self, data: bytes | memoryview) -> None:
        """Appends."""
        write_all(self._fd, data)
        self._hasher.update(data)

    def commit(self) -> str:
        """The digest; the content is part of the store, claimed by the lease."""
        digest = self._hasher.digest()
        part = self._core.part_file(digest)
        with disk_errors("storing content"):
            lock = lock_file(part)
        assert lock is not None
        try:
            if claim_blob(self._core, digest, self._lease):
                os.unlink(self._path)
            else:
                add_blob(self._core, self._path, digest, self.size, self._lease)
            os.unlink(part)
        finally:
            os.close(lock)
        os.close(self._fd)
        self._fd = -1
        return digest


def blob_path(core: Core, digest: str) -> str:
    """Where the content lies. Raises StoreError when it is not there."""
    if not core.database.read("SELECT 1 FROM blobs WHERE digest = ?", (digest,)):
        raise StoreError(f"content {digest} is not in the store", value=digest, hint="pull or load its image again")
    return core.blob_file(digest)


def open_blob(core: Core, digest: str) -> int:
    """A descriptor for reading, owned by the caller. Raises StoreError."""
    with disk_errors(f"content {digest}"):
        return os.open(blob_path(core, digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def read_blob(core: Core, digest: str, limit_bytes: int) -> bytes:
    """All of a small blob, verified. Raises StoreError, DigestMismatch."""
    with os.fdopen(open_blob(core, digest), "rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise StoreError(f"content {digest} has more than {limit_bytes} bytes", value=digest)
    verify(data, digest, what="stored content")
    return data


class Doomed:
    """Content that goes: `take` its rows inside a write, `finish` with its files after that is committed.

    The locks of the digests are held in between, so that nobody brings one of them in before its old file is gone.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._locks: dict[str, int] = {}
        self._gone: dict[str, int] = {}

    def __enter__(self) -> Doomed:
        return self

    def take(self, rows: sqlite3.Connection, digests: Sequence[str]) -> list[str]:
        """Removes the rows of those that no image and no lease names and nobody is writing. After drop_dead_leases.

        Returns those that are left for another one: each lock is a descriptor.
        """
        for number, digest in enumerate(digests):
            if len(self._locks) == LOCKS_MAX:
                return list(digests[number:])
            found = rows.execute(
                "SELECT size FROM blobs WHERE digest = :x AND NOT EXISTS(SELECT 1 FROM image_blobs WHERE blob = :x)"
                " AND NOT EXISTS(SELECT 1 FROM claims WHERE kind = 'blob' AND name = :x)", {"x": digest}).fetchone()
            if not found or digest in self._locks:
                continue
            with disk_errors("removing content"):
                lock = lock_file(self._core.part_file(digest), wait=False)  # who waits here would keep all writers out
            if lock is not None:
                self._locks[digest] = lock
                rows.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
                self._gone[digest] = found[0]
        return []

    def finish(self) -> int:
        """Removes the files; bytes freed."""
        for digest in self._gone:
            unlink_if_there(self._core.blob_file(digest))
        return sum(self._gone.values())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for digest, lock in self._locks.items():
            unlink_if_there(self._core.part_file(digest))
            os.close(lock)


def remove_blobs(core: Core, digests: Sequence[str]) -> int:
    """Removes those that no image and no living lease names and nobody is writing; bytes freed."""
    freed = 0
    while digests:
        with Doomed(core) as doomed:
            with core.database.write() as rows:
                core.database.drop_dead_leases(rows)
                digests = doomed.take(rows, digests)
            freed += doomed.finish()
    return freed


def unlink_if_there(path: str) -> None:
    """Removes a file that another process may have removed."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def is_locked(path: str) -> bool:
    """Somebody is writing the file at `path`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
