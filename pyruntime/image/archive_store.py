"""`save`: images of the store into an archive or a layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyruntime.errors import ImageError, InvalidReference, StoreError
from pyruntime.image.archive import Archived
from pyruntime.image.archive_blobs import StoreBlobs
from pyruntime.image.archive_save import save_archive, save_layout
from pyruntime.image.media import Manifest, parse_manifest
from pyruntime.image.reference import parse_familiar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyruntime.image.archive_tar import Write
    from pyruntime.image.core import Image
    from pyruntime.image.reference import Reference
    from pyruntime.image.store import Store


def save_from_store(store: Store, texts: Sequence[str], write: Write) -> None:
    """Writes the archive of the images that `texts` name to `write`.

    NAME:TAG gives that tag, NAME every tag of the repository, an ID (or prefix) or a digest the image without a name.
    Raises ImageNotFound, InvalidReference before the first byte.
    """
    with store.lease() as lease:
        blobs = StoreBlobs(store, lease)
        save_archive(write, blobs, chosen_images(blobs, texts))


def save_layout_from_store(store: Store, texts: Sequence[str], path: str) -> None:
    """The same into the OCI layout at `path`; see save_layout."""
    with store.lease() as lease:
        blobs = StoreBlobs(store, lease)
        save_layout(path, blobs, chosen_images(blobs, texts))


def chosen_images(blobs: StoreBlobs, texts: Iterable[str]) -> list[Archived]:
    """The images, each once with the names it is saved under; their content stays while the lease does."""
    found: dict[str, Archived] = {}
    for text in texts:
        for image, references in _named(blobs.store, text):
            known = found.get(image.id) or Archived(stored_manifest(blobs, image), image.config)
            found[image.id] = known.replace(references=tuple(dict.fromkeys(known.references + references)))
    return list(found.values())


def _named(store: Store, text: str) -> list[tuple[Image, tuple[Reference, ...]]]:
    try:
        wanted = parse_familiar(text)
    except InvalidReference:
        return [(store.find(text), ())]  # an ID of 64 digits, or sha256:…
    if not wanted.tag and not wanted.digest:
        tagged = [(image, tuple(ref for ref in image.tags if ref.name == wanted.name)) for image in store.images()]
        if found := [(image, references) for image, references in tagged if references]:
            return found
    image = store.find(text)
    return [(image, tuple(ref for ref in image.tags if (ref.name, ref.tag) == (wanted.name, wanted.tag)))]


def stored_manifest(blobs: StoreBlobs, image: Image) -> Manifest:
    """The manifest of an image whose content is all here, and stays.

    Raises StoreError when there is none, ImageNotFound when somebody has removed the image meanwhile. A manifest that no
    registry knows goes first: it is the image as it was loaded or imported, before a push made it small.
    """
    pushed = {reference.digest for reference in image.repo_digests}
    for digest in sorted(image.manifest_digests, key=lambda digest: (digest in pushed, digest)):
        try:
            manifest = parse_manifest(blobs.store.read_blob(digest))
        except ImageError:
            continue
        if (isinstance(manifest, Manifest) and blobs.has(digest) and blobs.has(manifest.config.digest)
                and all(blobs.has(layer.digest) or layer.urls for layer in manifest.layers)):  # fmt: skip
            return manifest
    blobs.store.find(image.id)
    raise StoreError(f"image {image.id} has no complete manifest in the store", value=image.id, hint="pull it again")
