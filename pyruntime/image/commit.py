"""`commit`: a layer on top of an image becomes an image; and `export`, a merged tree as one tar.

The layer comes as a tar stream, which diff.py makes of a container's upper directory. It is compressed and unpacked in
one pass, so that the new image is as complete as a pulled one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyruntime.errors import InvalidImage
from pyruntime.image import media
from pyruntime.image.archive import make_manifest
from pyruntime.image.archive_blobs import StoreBlobs
from pyruntime.image.archive_store import stored_manifest
from pyruntime.image.changes import apply_changes
from pyruntime.image.diff import tree_layer, upper_layer
from pyruntime.image.digest import chain_ids
from pyruntime.image.importing import config_document, descriptor, dump, now
from pyruntime.image.packing import gzip_packer
from pyruntime.image.platform import host_platform
from pyruntime.image.store import NewLayer
from pyruntime.image.unpack import LayerUnpack, overlay_mode
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pyruntime.image.content import Lease
    from pyruntime.image.core import Image
    from pyruntime.image.reference import Reference
    from pyruntime.image.store import Store


class Words(Record):
    """What an image says of how it came about. `created` "" is now; `created_by` the container's command."""

    author: str = ""
    message: str = ""
    created_by: str = ""
    created: str = ""


NO_WORDS = Words()


def commit_layer(store: Store, pieces: Iterable[bytes], *, base: Image | None, config: dict[str, Any] | None = None,
                 changes: Sequence[str] = (), words: Words = NO_WORDS, reference: Reference | None = None) -> Image:
    """The image of `base` (None: nothing) with one more layer, the tar that `pieces` are, and its own configuration.

    `config`: the container's `config` object, None the base's; `changes` (see apply_changes) come on top. Raises
    UsageError for a bad change, UnpackError, StoreError; then nothing is kept.
    """
    inner = apply_changes(config if config is not None else dict(base.config.config) if base else {}, changes)
    with store.lease() as lease:
        blobs = StoreBlobs(store, lease)
        known = _known_layers(store, lease, base)
        below = stored_manifest(blobs, base) if base else None
        layer, digest, size = _take_in(store, lease, pieces, known)
        diff_ids = [*(base.config.diff_ids if base else ()), layer.diff_id]
        document = _document(base, inner, diff_ids, words)
        raw = dump(document)
        described = [_layer_descriptor(one) for one in below.layers] if below else []
        manifest = make_manifest(descriptor(media.OCI_CONFIG, store.put_blob(raw, lease), len(raw)),
                                 [*described, descriptor(media.OCI_LAYER_GZIP, digest, size)])
        layers = [NewLayer(one.chain_id, one.diff_id, None, one.size) for one in known] + [layer]
        parent = base.id if base else ""
        return store.commit_image(lease, reference, store.put_blob(manifest, lease), layers, parent=parent)


def commit_upper(store: Store, upper: str, *, base: Image, config: dict[str, Any] | None = None,
                 changes: Sequence[str] = (), words: Words = NO_WORDS, reference: Reference | None = None) -> Image:
    """The same of an overlay's upper directory on the layers of `base`; see upper_layer for what it may hold.

    Nothing may write there meanwhile: a container is paused or stopped, and its volumes are no part of it.
    """
    top = store.layer(base.chain_ids[-1]) if base.chain_ids else None
    pieces = upper_layer(upper, lower_root=top.path if top else "")
    return commit_layer(store, pieces, base=base, config=config, changes=changes, words=words, reference=reference)


def export_tree(root: str) -> Iterator[bytes]:
    """A merged tree, a container's for one, as the tar of a root file system: what import takes. No times of access."""
    return tree_layer("", root)


def _known_layers(store: Store, lease: Lease, base: Image | None) -> list[Any]:
    """The base's layers, unpacked, base first; claimed."""
    found = []
    for chain_id in base.chain_ids if base else ():
        layer = store.layer(chain_id, lease)
        if layer is None:
            raise InvalidImage(f"layer {chain_id} of the base is not in the store", value=chain_id, hint="pull it again")
        found.append(layer)
    return found


def _take_in(store: Store, lease: Lease, pieces: Iterable[bytes], known: list[Any]) -> tuple[NewLayer, str, int]:
    """(the layer, digest and size of its blob): compressed, stored and unpacked as the bytes pass."""
    path = store.stage_layer(lease)
    lowers = [layer.path for layer in reversed(known)]
    packer = gzip_packer()
    with store.new_blob(lease) as blob, LayerUnpack(path, mode=overlay_mode(), lowers=lowers) as unpack:
        for piece in pieces:
            unpack.write(piece)
            blob.write(packer.compress(piece))
        blob.write(packer.flush())
        result = unpack.finish()
        size, digest = blob.size, blob.commit()
    chain_id = chain_ids([*(layer.diff_id for layer in known), result.diff_id])[-1]
    there = store.layer(chain_id, lease)
    return NewLayer(chain_id, result.diff_id, None if there else path, result.size), digest, size


def _document(base: Image | None, inner: dict[str, Any], diff_ids: list[str], words: Words) -> dict[str, Any]:
    """The config: the base's own members stay, but for what is new."""
    old = base.config.document if base else {}
    platform = base.config.platform if base else host_platform()
    fresh = config_document(inner, diff_ids, platform=platform, created=words.created or now(), message=words.message,
                            author=words.author, history=old.get("history") or (), created_by=words.created_by)
    left = {key: value for key, value in old.items() if key in {"os.version", "os.features", "variant"}}
    return left | fresh


def _layer_descriptor(layer: media.Descriptor) -> dict[str, Any]:
    """A layer of the base as it stands in its manifest; Docker's types in OCI's words, for the manifest is OCI's."""
    words = {media.DOCKER_LAYER: media.OCI_LAYER, media.DOCKER_LAYER_GZIP: media.OCI_LAYER_GZIP,
             media.DOCKER_LAYER_ZSTD: media.OCI_LAYER_ZSTD, media.DOCKER_FOREIGN: media.OCI_FOREIGN,
             f"{media.DOCKER_FOREIGN}.gzip": f"{media.OCI_FOREIGN}+gzip"}  # fmt: skip
    found = descriptor(words.get(layer.media_type, layer.media_type), layer.digest, layer.size)
    found |= {"urls": list(layer.urls)} if layer.urls else {}
    return found | ({"annotations": layer.annotations} if layer.annotations else {})
