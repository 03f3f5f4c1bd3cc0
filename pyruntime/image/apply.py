"""Unpacks an image whose blobs are here already, for load, import and bundle; pull does it while they come in.

The bytes meet the unpacking helper alone (unpack.py). What comes out is compared with the DiffIDs of the image's
config before anything of it can be seen.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyruntime.errors import DigestMismatch
from pyruntime.image.store import NewLayer
from pyruntime.image.unpack import LayerUnpack, overlay_mode, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyruntime.image.archive import Archived
    from pyruntime.image.archive_blobs import Blobs
    from pyruntime.image.content import Lease
    from pyruntime.image.core import Image
    from pyruntime.image.store import Store
    from pyruntime.image.unpack import IdMaps
    from pyruntime.image.unpack_report import LayerResult

    Say = Callable[[str], None]


def register_image(store: Store, lease: Lease, image: Archived, *, parent: str = "", say: Say | None = None) -> Image:
    """Makes the image visible in the store, which has its blobs, under all of its references.

    `say` is called with a line for each thing worth a warning. Raises UnpackError, DigestMismatch for a layer that is
    not the config's, StoreError; then nothing of it can be seen.
    """
    layers: list[NewLayer] = []
    made: list[tuple[str, LayerResult]] = []
    lowers: list[str] = []
    config = image.config
    for layer, chain_id, diff_id in zip(image.manifest.layers, config.chain_ids, config.diff_ids):
        known = store.layer(chain_id, lease)
        if known is not None:
            lowers.insert(0, known.path)
            layers.append(NewLayer(chain_id, diff_id, None, 0))
            continue
        path = store.stage_layer(lease)
        with LayerUnpack(path, mode=overlay_mode(), layer=layer.digest) as unpack:
            result = _feed(unpack, store.open_blob(layer.digest), layer.digest, diff_id)
        made.append((path, result))
        layers.append(NewLayer(chain_id, diff_id, path, result.size))
    warnings = [text for _, result in made for text in result.warnings] + (settle(made, lowers) if made else [])
    for text in warnings if say else ():
        say(text)  # type: ignore[misc]
    first = image.references[0] if image.references else None
    found = store.commit_image(lease, first, image.manifest.digest, layers, parent=parent)
    for reference in image.references[1:]:
        found = store.tag(found.id, reference)
    return found


def unpack_rootfs(blobs: Blobs, image: Archived, path: str, *, id_maps: IdMaps | None = None) -> list[str]:
    """All layers into the empty directory `path`, one on top of the other; returns warnings.

    `id_maps` None: ids as they are, or for a plain user one id. Raises UnpackError, DigestMismatch; then what is in
    the directory is a mixture, which the caller removes.
    """
    warnings: list[str] = []
    for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids):
        with LayerUnpack(path, mode="flat", id_maps=id_maps, layer=layer.digest) as unpack:
            warnings += _feed(unpack, blobs.open(layer.digest), layer.digest, diff_id).warnings
    return warnings


def _feed(unpack: LayerUnpack, fd: int, digest: str, diff_id: str) -> LayerResult:
    """The whole of a blob; closes `fd`."""
    try:
        unpack.feed_fd(fd)
        result = unpack.finish()
    finally:
        os.close(fd)
    if result.diff_id != diff_id:
        raise DigestMismatch(f"layer {digest} unpacks to {result.diff_id}, its image's config says {diff_id}",
                             field="/rootfs/diff_ids", value=digest, hint="the image is damaged or forged")
    return result
