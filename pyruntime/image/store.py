"""The image store: content, unpacked layers and the names of images below one root, for many processes at once.

    root/db.sqlite          rows: what is there (index.py)
    root/blobs/ALG/HEX      content as received (content.py)
    root/ingest/            content on its way in; a part that is kept is gone on with
    root/staging/ID/diff    layers being unpacked, and those being removed (layers.py)
    root/layers/ID/diff     unpacked layers, for overlay mounts; layers/ is 0700
    root/reserve            room for rows when the disk is full (room.py)
    root/lock               one opener at a time sweeps (collect.py)

Appearing: content, one syncfs, then the rows (appearing.py). Disappearing: the rows, then the files (removal.py).
What no row and no living lease names is swept. A name of content is immutable; a layer's directory has a name of its
own that is never used twice.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyruntime.errors import ImageNotFound
from pyruntime.image import appearing, check, collect, content, layers, names, removal
from pyruntime.image.content import Ingest, Lease, NewBlob
from pyruntime.image.core import KEEP_S, Core, Image, Layer, NewLayer, Usage
from pyruntime.image.digest import digest_of
from pyruntime.image.locks import start_time
from pyruntime.image.room import spare_room

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from types import TracebackType

    from pyruntime.image.index import Database
    from pyruntime.image.reference import Reference

__all__ = ["Image", "Ingest", "Layer", "Lease", "NewBlob", "NewLayer", "Store", "Usage"]


class Store:
    """Opens or makes the store at `root` and sweeps what killed writers left. Safe for many threads.

    Each process opens its own; one that forks does not use it in the child. `keep_s`: how long the parts of a transfer
    that nobody goes on with are kept. Raises StoreError.
    """

    def __init__(self, root: str, *, keep_s: float = KEEP_S) -> None:
        self._core = Core(root, keep_s)
        self._config_of = names.Configs(self._core)
        try:
            with self._core.locked(), spare_room(root):
                trees = collect.sweep(self._core)
            for tree in trees:
                layers.remove_tree(tree)
        except BaseException:
            self._core.close()
            raise

    @classmethod
    def open(cls, root: str) -> Store:
        """The store at `root`; the same as calling the class."""
        return cls(root)

    @property
    def root(self) -> str:
        """The absolute path of the root."""
        return self._core.root

    @property
    def database(self) -> Database:
        """The rows; the engine keeps tables of its own in it and may join a write of the store with its own."""
        return self._core.database

    def close(self) -> None:
        """Closes the database; a second call does nothing."""
        self._core.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ---- content ---------------------------------------------------------------------------------------------------

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """What is written or claimed under it stays until it ends, or this process does.

        What was staged and not committed goes with it.
        """
        pid = os.getpid()
        with self.database.write(durable=False) as rows:
            number = rows.execute("INSERT INTO leases(pid, started, boot, since) VALUES(?, ?, ?, ?)",
                                  (pid, start_time(pid), self.database.boot, time.time_ns())).lastrowid
        assert number is not None
        lease = Lease(number)
        try:
            yield lease
        finally:
            appearing.abandon(self._core, lease)

    def has_blob(self, digest: str, lease: Lease | None = None) -> bool:
        """The content is there; with a lease it stays."""
        if lease is not None:
            return content.claim_blob(self._core, digest, lease)
        return bool(self.database.read("SELECT 1 FROM blobs WHERE digest = ?", (digest,)))

    def blob_size(self, digest: str) -> int:
        """Bytes. Raises StoreError when it is not there."""
        return os.stat(self.blob_path(digest)).st_size

    def blob_path(self, digest: str) -> str:
        """Where the content lies. Raises StoreError when it is not there."""
        return content.blob_path(self._core, digest)

    def open_blob(self, digest: str) -> int:
        """A descriptor for reading, owned by the caller. Raises StoreError."""
        return content.open_blob(self._core, digest)

    def read_blob(self, digest: str, *, limit_bytes: int = 8 << 20) -> bytes:
        """All of a small blob, verified. Raises StoreError, DigestMismatch."""
        return content.read_blob(self._core, digest, limit_bytes)

    def put_blob(self, data: bytes, lease: Lease, also: str = "") -> str:
        """Stores `data`; its sha256 digest. `also`: the digest it came by, where it stays too if that is a sha512."""
        digest = digest_of(data)
        for name in dict.fromkeys((digest, also or digest)):
            with self.ingest(name, len(data), lease) as ingest:
                if not ingest.complete:
                    ingest.restart()
                    ingest.write(data)
                    ingest.commit()
        return digest

    def ingest(self, digest: str, size: int, lease: Lease, *, cancel: threading.Event | None = None) -> Ingest:
        """`with store.ingest(...) as ingest:`; entering waits for another writer of the digest, or for `cancel`.

        Entering raises Cancelled, StoreError; a digest that cannot be computed is InvalidImage here.
        """
        return Ingest(self._core, digest, size, lease, cancel)

    def new_blob(self, lease: Lease, algorithm: str = "sha256") -> NewBlob:
        """`with store.new_blob(lease) as blob:`, for content whose digest is not known yet."""
        return NewBlob(self._core, lease, algorithm)

    # ---- layers and images -----------------------------------------------------------------------------------------

    def stage_layer(self, lease: Lease) -> str:
        """An empty directory to unpack a layer into: its path, named diff, below staging/."""
        return layers.stage(self._core, lease)

    def layer(self, chain_id: str, lease: Lease | None = None) -> Layer | None:
        """The unpacked layer; with a lease it and those below it stay."""
        return layers.find(self._core, chain_id, lease)

    def commit_image(self, lease: Lease, reference: Reference | None, manifest_digest: str,
                     layers: Sequence[NewLayer], *, target_digest: str = "", parent: str = "") -> Image:  # fmt: skip
        """Makes the image of a stored manifest visible: content, one syncfs, then the rows.

        `layers` base first, as many as the config has. `target_digest` is what a registry knows the reference by, the
        index's or the manifest's: it becomes a RepoDigest; "" (built, loaded) makes none. A reference with a digest is
        known by that alone. A name that another image had moves. Raises InvalidImage, StoreError, DigestMismatch.
        """
        wanted = appearing.Appearance(reference, manifest_digest, layers, target_digest, parent)
        return appearing.commit(self._core, lease, wanted, self._image)

    def images(self) -> list[Image]:
        """All images, newest first."""
        return names.images(self._core, self._config_of)

    def find(self, text: str) -> Image:
        """The image of a reference, else of an ID or a unique prefix of one. Raises ImageNotFound, InvalidReference."""
        return self._image(names.find(self._core, text))

    def _image(self, image_id: str) -> Image:
        found = names.images(self._core, self._config_of, image_id)
        if not found:
            raise ImageNotFound(f"No such image: {image_id}", value=image_id)
        return found[0]

    def tag(self, source: str, reference: Reference) -> Image:
        """Names the image `source` (as in find) `reference` as well; an image that had the name loses it.

        Raises ImageNotFound; InvalidReference for one with a digest.
        """
        with self.database.write():
            return self._image(names.tag(self._core, source, reference))

    def hold(self, holder: str, image_id: str) -> None:
        """A container (`holder` is its ID) uses the image: it cannot be removed unforced, its layers not at all."""
        names.hold(self._core, holder, image_id)

    def release(self, holder: str) -> None:
        """The container is gone; layers that only it used go."""
        names.release(self._core, holder)
        collect.collect(self._core)

    def remove(self, text: str, *, force: bool = False, prune: bool = True,
               running: Collection[str] = ()) -> list[tuple[str, str]]:  # fmt: skip
        """Untags or removes, by Docker's rules; (`Untagged` or `Deleted`, text) in order.

        `running`: holders that run now. `prune`: parents that nothing names go as well. Raises ImageConflict,
        ImageNotFound, InvalidReference.
        """
        return self._remove(running, lambda work: work.remove(text, force=force, prune=prune))[0]

    def prune(self, filters: Mapping[str, Collection[str]] | None = None, *,
              running: Collection[str] = ()) -> tuple[list[tuple[str, str]], int]:  # fmt: skip
        """Removes images without a name, or with filter dangling=false all unused; (what went, bytes freed).

        Filters: dangling, until, label, label!. Raises InvalidReference for another one.
        """
        chosen = removal.Filters(filters or {})
        return self._remove(running, lambda work: work.prune(chosen, self._config_of))

    def _remove(self, running: Collection[str],
                what: Callable[[removal.Removal], None]) -> tuple[list[tuple[str, str]], int]:  # fmt: skip
        """All rows in one transaction, then the files; (report, bytes freed)."""
        with spare_room(self.root), content.Doomed(self._core) as doomed:
            with self.database.write() as rows:
                self.database.drop_dead_leases(rows)
                work = removal.Removal(rows, running)
                what(work)
                left = doomed.take(rows, work.blobs)
            freed = doomed.finish() + sum(size for _, _, size in work.gone)
        freed += content.remove_blobs(self._core, left)
        layers.discard(self._core, [place for _, place, _ in work.gone])
        return work.report, freed + collect.collect(self._core)

    def disk_usage(self) -> Usage:
        """What images take on disk."""
        return check.disk_usage(self._core, self.images())

    def verify(self, *, content: bool = True) -> list[str]:
        """What is wrong, one line each; [] when rows and files agree. `content`: every blob is hashed."""
        return check.verify(self._core, content=content)
