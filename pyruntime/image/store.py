"""The image store: content, unpacked layers and the names of images below one root, for many processes at once.

    root/db.sqlite          rows: what is there (index.py)
    root/blobs/ALG/HEX      content as received
    root/ingest/            content on its way in; a part that is kept is gone on with
    root/staging/ID/diff    layers being unpacked
    root/layers/ID/diff     unpacked layers, for overlay mounts; layers/ is 0700

Appearing: content, one syncfs, then the row. Disappearing: the row, then the files. What no row and no living lease
names is swept. A name of content is immutable; a layer's directory has a name of its own that is never used twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyruntime.record import Record

if TYPE_CHECKING:
    import threading
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from types import TracebackType

    from pyruntime.image.media import ImageConfig
    from pyruntime.image.reference import Reference


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


class Lease:
    """What is written or claimed under it is not collected before it ends, or its process does."""

    id: int


class Ingest:
    """Content with a known digest on its way in; the one writer of it over all processes.

    `complete`: the content is in the store already, nothing is to be written. `offset`: bytes kept of an earlier try,
    which the running hash has taken in. `resumed`: offset was not 0 at the beginning.
    """

    digest: str
    size: int
    complete: bool
    offset: int
    resumed: bool

    def __enter__(self) -> Ingest:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        raise NotImplementedError

    def read_partial(self, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        """The bytes kept so far, from the first."""
        raise NotImplementedError

    def restart(self) -> None:
        """Drops what was kept: offset is 0."""
        raise NotImplementedError

    def write(self, data: bytes | memoryview) -> None:
        """Appends. Raises DigestMismatch past `size`."""
        raise NotImplementedError

    def commit(self) -> None:
        """Checks size and digest and makes the content part of the store, claimed by the lease.

        Raises DigestMismatch; then nothing is kept, and a resumed transfer may be tried once more from the start.
        """
        raise NotImplementedError


class NewBlob:
    """Content whose digest is not known yet. `commit` names it; leaving without it keeps nothing."""

    size: int

    def __enter__(self) -> NewBlob:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        raise NotImplementedError

    def write(self, data: bytes | memoryview) -> None:
        """Appends."""
        raise NotImplementedError

    def commit(self) -> str:
        """The digest; the content is part of the store, claimed by the lease."""
        raise NotImplementedError


class Usage(Record):
    """Bytes on disk. `images`: (image, bytes it shares with others, bytes that are its alone)."""

    layers_bytes: int
    blobs_bytes: int
    partial_bytes: int
    images: tuple[tuple[Image, int, int], ...]


class Store:
    """See the module docstring. Safe for many threads; each process opens its own."""

    def __init__(self, root: str) -> None:
        raise NotImplementedError

    @classmethod
    def open(cls, root: str) -> Store:
        """Opens or makes the store at `root`; sweeps what a killed writer left. Raises StoreError."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes the database."""
        raise NotImplementedError

    def __enter__(self) -> Store:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        raise NotImplementedError

    def lease(self) -> LeaseContext:
        """`with store.lease() as lease:`."""
        raise NotImplementedError

    def has_blob(self, digest: str, lease: Lease | None = None) -> bool:
        """The content is there; with a lease it stays."""
        raise NotImplementedError

    def blob_size(self, digest: str) -> int:
        """Bytes. Raises StoreError when it is not there."""
        raise NotImplementedError

    def blob_path(self, digest: str) -> str:
        """Where the content lies. Raises StoreError when it is not there."""
        raise NotImplementedError

    def open_blob(self, digest: str) -> int:
        """A descriptor for reading, owned by the caller."""
        raise NotImplementedError

    def read_blob(self, digest: str, *, limit_bytes: int = 8 << 20) -> bytes:
        """All of a small blob, verified. Raises StoreError, DigestMismatch."""
        raise NotImplementedError

    def put_blob(self, data: bytes, lease: Lease) -> str:
        """Stores `data`; its digest."""
        raise NotImplementedError

    def ingest(self, digest: str, size: int, lease: Lease, *, cancel: threading.Event | None = None) -> Ingest:
        """`with store.ingest(...) as ingest:`; entering waits for another writer of the digest, or for `cancel`."""
        raise NotImplementedError

    def new_blob(self, lease: Lease, algorithm: str = "sha256") -> NewBlob:
        """`with store.new_blob(lease) as blob:`."""
        raise NotImplementedError

    def stage_layer(self, lease: Lease) -> str:
        """An empty directory to unpack a layer into: its path, named diff, below staging/."""
        raise NotImplementedError

    def layer(self, chain_id: str, lease: Lease | None = None) -> Layer | None:
        """The unpacked layer; with a lease it stays."""
        raise NotImplementedError

    def commit_image(self, lease: Lease, reference: Reference | None, manifest_digest: str,
                     layers: Sequence[NewLayer], *, target_digest: str = "", parent: str = "") -> Image:
        """Makes the image of a stored manifest visible: content, one syncfs, then the rows.

        `layers` base first, as many as the config has. `target_digest` is what a registry knows the reference by, the
        index's or the manifest's: it becomes a RepoDigest; "" (built, loaded) makes none. Raises InvalidImage,
        StoreError.
        """
        raise NotImplementedError

    def images(self) -> list[Image]:
        """All images, newest first."""
        raise NotImplementedError

    def find(self, text: str) -> Image:
        """The image of a reference, else of an ID or a unique prefix of one. Raises ImageNotFound, InvalidReference."""
        raise NotImplementedError

    def tag(self, source: str, reference: Reference) -> Image:
        """Names the image `source` (as in find) `reference` as well; an image that had the name loses it."""
        raise NotImplementedError

    def hold(self, holder: str, image_id: str) -> None:
        """A container (`holder` is its ID) uses the image: it cannot be removed unforced, its layers not at all."""
        raise NotImplementedError

    def release(self, holder: str) -> None:
        """The container is gone."""
        raise NotImplementedError

    def remove(self, text: str, *, force: bool = False, prune: bool = True,
               running: Collection[str] = ()) -> list[tuple[str, str]]:
        """Untags or removes, by Docker's rules; (`Untagged` or `Deleted`, text) in order.

        `running`: holders that run now. `prune`: parents that nothing names go as well. Raises ImageConflict.
        """
        raise NotImplementedError

    def prune(self, filters: Mapping[str, Collection[str]] | None = None, *,
              running: Collection[str] = ()) -> tuple[list[tuple[str, str]], int]:
        """Removes images without a name, or with filter dangling=false all unused; (what went, bytes freed)."""
        raise NotImplementedError

    def disk_usage(self) -> Usage:
        """What images take on disk."""
        raise NotImplementedError

    def verify(self, *, content: bool = True) -> list[str]:
        """What is wrong, one line each; [] when rows and files agree. `content`: every blob is hashed."""
        raise NotImplementedError


class LeaseContext:
    """What Store.lease returns."""

    def __enter__(self) -> Lease:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        raise NotImplementedError
