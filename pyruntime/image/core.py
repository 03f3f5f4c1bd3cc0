"""Where things of the store lie, and the records that are spoken of."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyruntime.errors import StoreError
from pyruntime.image.digest import algorithm_of, check_digest, encoded_of
from pyruntime.image.index import Database
from pyruntime.image.locks import lock_file
from pyruntime.image.room import spare_room
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.image.config import ImageConfig
    from pyruntime.image.reference import Reference

KEEP_S = 24 * 3600.0  # how long the parts of a transfer that nobody goes on with are kept
FOLDERS = ("blobs/sha256", "blobs/sha512", "ingest", "staging", "layers")


class Image(Record):
    """One image. `id` is its config's digest.

    `tags` hold a name and a tag, `repo_digests` a name and a digest. `size` is what its layers take unpacked, in bytes.
    `created` is RFC 3339 text as in the config, `last_tagged` ns since the epoch, 0 never. `parent` is an image ID or "".
    """

    id: str
    config: ImageConfig
    manifest_digests: tuple[str, ...]
    tags: tuple[Reference, ...]
    repo_digests: tuple[Reference, ...]
    size: int
    created: str
    chain_ids: tuple[str, ...]
    parent: str
    last_tagged: int


class Layer(Record):
    """An unpacked layer: `path` is its diff/ directory, `parent` the ChainID below it or "", `size` in bytes."""

    chain_id: str
    diff_id: str
    parent: str
    path: str
    size: int


class NewLayer(Record):
    """A layer of commit_image. `path` is what stage_layer gave, unpacked; None when the store has the chain already."""

    chain_id: str
    diff_id: str
    path: str | None
    size: int


class Usage(Record):
    """Bytes on disk. `images`: (image, bytes of layers it shares with others, bytes that are its alone)."""

    layers_bytes: int
    blobs_bytes: int
    partial_bytes: int
    images: tuple[tuple[Image, int, int], ...]


class Core:
    """The root and its database. `lock` keeps other openers out while tables are made and the root is swept."""

    def __init__(self, root: str, keep_s: float) -> None:
        self.root = os.path.abspath(root)
        self.keep_s = keep_s
        with disk_errors(f"the store at {self.root}"):
            os.makedirs(self.root, 0o711, exist_ok=True)
            for name in FOLDERS:
                os.makedirs(f"{self.root}/{name}", 0o700, exist_ok=True)
            self.fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with self.locked(), spare_room(self.root):
                self.database = Database(f"{self.root}/db.sqlite")
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Closes database and root; a second call does nothing."""
        self.database.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One opener at a time."""
        with disk_errors("the store's lock"):
            fd = lock_file(f"{self.root}/lock")
        assert fd is not None
        try:
            yield
        finally:
            os.close(fd)

    def blob_file(self, digest: str) -> str:
        """Where the content lies, or will."""
        check_digest(digest, computable=True)
        return f"{self.root}/blobs/{algorithm_of(digest)}/{encoded_of(digest)}"

    def part_file(self, digest: str) -> str:
        """Where the content is gathered; its lock is that of the digest."""
        check_digest(digest, computable=True)
        return f"{self.root}/ingest/{algorithm_of(digest)}-{encoded_of(digest)}"

    def staging(self, place: str) -> str:
        """A layer's directory before it is committed and after it was removed."""
        return f"{self.root}/staging/{place}"

    def layer_folder(self, place: str) -> str:
        """A committed layer's directory; diff/ is inside."""
        return f"{self.root}/layers/{place}"


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turns the kernel's refusals into StoreError with a hint."""
    try:
        yield
    except OSError as error:
        hints = {errno.ENOSPC: "the disk is full: remove images, or use another root",
                 errno.EDQUOT: "the quota is used up: remove images, or use another root",
                 errno.EACCES: "the root of the store belongs to another user",
                 errno.EROFS: "the file system is read-only"}
        raise StoreError(f"{what}: {error.strerror or error}", value=str(error.filename or ""),
                         hint=hints.get(error.errno or 0, "")) from error
