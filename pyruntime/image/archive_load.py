"""`load`: the images of an archive into the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyruntime.errors import ImageNotFound
from pyruntime.image.apply import register_image
from pyruntime.image.archive import check_platform, read_images
from pyruntime.image.archive_blobs import StoreBlobs
from pyruntime.image.archive_contents import LayoutContents, TarContents
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyruntime.image.archive import Archived
    from pyruntime.image.archive_contents import Contents
    from pyruntime.image.archive_inflate import Read
    from pyruntime.image.core import Image
    from pyruntime.image.platform import Platform
    from pyruntime.image.reference import Reference
    from pyruntime.image.store import Store


class Loaded(Record):
    """An image that was loaded, and the lines that tell of it, in Docker's words."""

    image: Image
    lines: tuple[str, ...]


def load_archive(store: Store, read: Read, *, platform: Platform | None = None, name: str = "",
                 say: Callable[[str], None] | None = None) -> list[Loaded]:
    """Loads every image of the tar that `read` gives, compressed or not.

    Raises InvalidImage for what is no archive or incomplete, DigestMismatch, UnpackError, StoreError. Images that were
    loaded before the one that failed stay. `platform`, `name`: see read_images. `say` gets warnings, a line each.
    """
    with store.lease() as lease:
        blobs = StoreBlobs(store, lease)
        return _load(blobs, TarContents(read, blobs), platform, name, say)


def load_layout(store: Store, folder_fd: int, *, platform: Platform | None = None, name: str = "",
                say: Callable[[str], None] | None = None) -> list[Loaded]:
    """The same for an OCI layout in the directory `folder_fd`, which is borrowed."""
    with store.lease() as lease:
        blobs = StoreBlobs(store, lease)
        return _load(blobs, LayoutContents(folder_fd, blobs), platform, name, say)


def _load(blobs: StoreBlobs, contents: Contents, platform: Platform | None, name: str,
          say: Callable[[str], None] | None) -> list[Loaded]:  # fmt: skip
    done = []
    for archived in read_images(contents, platform=platform, name=name):
        check_platform(archived, platform)
        lines = [_renamed(blobs.store, archived, ref) for ref in archived.references]
        image = register_image(blobs.store, blobs.lease, archived, say=say)
        lines += [f"Loaded image: {ref.familiar}" for ref in archived.references] or [f"Loaded image ID: {image.id}"]
        done.append(Loaded(image, tuple(line for line in lines if line)))
    return done


def _renamed(store: Store, archived: Archived, reference: Reference) -> str:
    """The line that tells that another image loses its name, "" when none does."""
    try:
        before = store.find(reference.familiar)
    except ImageNotFound:
        return ""
    if before.id == archived.config.digest:
        return ""
    return f"The image {reference.familiar} already exists, renaming the old one with ID {before.id} to empty string"
