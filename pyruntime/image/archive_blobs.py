"""Where the content of an archive goes to and comes from: the store, or a folder of the caller's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from pyruntime.errors import DigestMismatch, InvalidImage
from pyruntime.image.archive_confined import inflated
from pyruntime.image.archive_inflate import LIMIT_BYTES
from pyruntime.image.digest import LENGTHS, Hasher, algorithm_of, check_digest, encoded_of, verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from pyruntime.image.store import Lease, Store

CHUNK_BYTES = 1 << 20


class Blobs(Protocol):
    """Content by digest. Every digest that comes in was checked by `check_digest`."""

    def add(self, pieces: Iterator[bytes], size: int, digest: str = "") -> str:
        """Keeps `size` bytes; their digest. With `digest` raises DigestMismatch when they have another.

        `size` -1, only without `digest`: all there are.
        """

    def has(self, digest: str) -> bool:
        """The content is there."""

    def size(self, digest: str) -> int:
        """Bytes of content that is there."""

    def open(self, digest: str) -> int:
        """A descriptor for reading, the caller's to close."""

    def read(self, digest: str, limit_bytes: int) -> bytes:
        """All of a small one, verified."""


class StoreBlobs:
    """The store's content, what comes in claimed by `lease`."""

    def __init__(self, store: Store, lease: Lease) -> None:
        self.store, self.lease = store, lease

    def add(self, pieces: Iterator[bytes], size: int, digest: str = "") -> str:
        """See Blobs."""
        if not digest:
            with self.store.new_blob(self.lease) as blob:
                for piece in pieces:
                    blob.write(piece)
                return blob.commit()
        with self.store.ingest(digest, size, self.lease) as ingest:
            if not ingest.complete:
                if ingest.offset:
                    ingest.restart()
                for piece in pieces:
                    ingest.write(piece)
                ingest.commit()
        return digest

    def has(self, digest: str) -> bool:
        """See Blobs."""
        return self.store.has_blob(digest, self.lease)

    def size(self, digest: str) -> int:
        """See Blobs."""
        return self.store.blob_size(digest)

    def open(self, digest: str) -> int:
        """See Blobs."""
        return self.store.open_blob(digest)

    def read(self, digest: str, limit_bytes: int) -> bytes:
        """See Blobs."""
        return self.store.read_blob(digest, limit_bytes=limit_bytes)


class FolderBlobs:
    """Content as files of one folder, ALG-HEX each. A context manager: at its end the files and the folder go."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> Self:
        os.mkdir(self.path, 0o700)
        return self

    def __exit__(self, *_: object) -> None:
        for name in os.listdir(self.path):
            os.unlink(f"{self.path}/{name}")
        os.rmdir(self.path)

    def add(self, pieces: Iterator[bytes], size: int, digest: str = "") -> str:
        """See Blobs."""
        hasher = Hasher(algorithm_of(digest) if digest else "sha256")
        fd = os.open(f"{self.path}/part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=0) as file:
            for piece in pieces:
                hasher.update(piece)
                write_all(file.fileno(), piece)
        found = hasher.digest()
        if size not in {-1, hasher.size} or digest not in {"", found}:
            raise DigestMismatch(f"content does not match its digest: expected {digest}, got {found}", value=digest)
        os.rename(f"{self.path}/part", self._file(found))
        return found

    def has(self, digest: str) -> bool:
        """See Blobs."""
        return os.path.exists(self._file(digest))

    def size(self, digest: str) -> int:
        """See Blobs."""
        return os.stat(self._file(digest)).st_size

    def open(self, digest: str) -> int:
        """See Blobs."""
        return os.open(self._file(digest), os.O_RDONLY | os.O_CLOEXEC)

    def read(self, digest: str, limit_bytes: int) -> bytes:
        """See Blobs."""
        return read_small(self, digest, limit_bytes)

    def _file(self, digest: str) -> str:
        return f"{self.path}/{algorithm_of(digest)}-{encoded_of(digest)}"


def read_small(blobs: Blobs, digest: str, limit_bytes: int) -> bytes:
    """All of a blob of at most `limit_bytes`. Raises InvalidImage when it is larger, DigestMismatch."""
    if (size := blobs.size(digest)) > limit_bytes:
        raise InvalidImage(f"{digest} has {size} bytes, more than the {limit_bytes} that are read", value=digest,
                           hint="an image document is small: this is damage or an attack")
    with open(blobs.open(digest), "rb") as file:
        data = file.read(limit_bytes + 1)
    verify(data, digest)
    return data


def pieces_of(blobs: Blobs, digest: str) -> Iterator[bytes]:
    """The content of a blob, CHUNK_BYTES at a time."""
    fd = blobs.open(digest)
    try:
        while piece := os.read(fd, CHUNK_BYTES):
            yield piece
    finally:
        os.close(fd)


def inflated_pieces(blobs: Blobs, digest: str, *, limit_bytes: int = LIMIT_BYTES) -> Iterator[bytes]:
    """The same without its compression. Raises InvalidImage for damage and past `limit_bytes`, HostError."""
    with (open(blobs.open(digest), "rb", buffering=0) as file,
          inflated(lambda size: file.read(size) or b"", limit_bytes=limit_bytes) as read):  # fmt: skip
        while piece := read(CHUNK_BYTES):
            yield piece


def named_digest(name: str) -> str:
    """The digest that `blobs/ALG/HEX` promises; "" for any other name and for algorithms that cannot be computed."""
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != "blobs" or parts[1] not in LENGTHS:
        return ""
    return check_digest(f"{parts[1]}:{parts[2]}")


def write_all(fd: int, data: bytes) -> None:
    """All of `data`, however much one call takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
