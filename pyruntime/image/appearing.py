"""How an image becomes visible: all of its content in place, one syncfs, then its rows in one transaction."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyruntime.errors import InvalidImage, StoreError
from pyruntime.image import layers, names
from pyruntime.image.collect import collect
from pyruntime.image.config import check_layers, parse_config
from pyruntime.image.content import read_blob
from pyruntime.image.core import disk_errors
from pyruntime.image.media import MANIFEST_MAX_BYTES, Index, parse_manifest
from pyruntime.image.room import is_low, spare_room
from pyruntime.native.kernel import syncfs
from pyruntime.record import Record

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from pyruntime.image.config import ImageConfig
    from pyruntime.image.content import Lease
    from pyruntime.image.core import Core, Image, NewLayer
    from pyruntime.image.reference import Reference


class Appearance(Record):
    """What commit is to make visible; see Store.commit_image."""

    reference: Reference | None
    manifest_digest: str
    layers: Sequence[NewLayer]
    target_digest: str
    parent: str


def commit(core: Core, lease: Lease, wanted: Appearance, read: Callable[[str], Image]) -> Image:
    """The image as `read` gives it by its ID, before anybody can remove it.

    Raises InvalidImage, StoreError, DigestMismatch; then no row names anything new.
    """
    config, blobs = _read(core, wanted)
    _check_layers(config, wanted.layers)
    fresh = _claim(core, lease, sorted({digest for digest, _ in blobs}))
    placed: dict[str, str] = {}
    for layer in wanted.layers:
        if layer.path is not None:
            place = layers.place_of(core, layer.path)
            if layers.find(core, layer.chain_id, lease) is None:
                layers.move_in(core, place)
            placed[layer.chain_id] = place
    if fresh or placed:
        with disk_errors("writing the image to the disk"):
            syncfs(core.fd)
    lost: list[str] = []
    with core.database.write() as rows:
        _add_layers(rows, wanted.layers, placed, lost)
        _add_image(rows, config, wanted, blobs)
        rows.execute("INSERT OR IGNORE INTO claims VALUES(?, 'image', ?)", (lease.id, config.digest))
        rows.executemany("DELETE FROM claims WHERE kind = 'place' AND name = ?", [(place,) for place in placed.values()])
        image = read(config.digest)
    layers.discard(core, lost)
    return image


def _read(core: Core, wanted: Appearance) -> tuple[ImageConfig, list[tuple[str, str]]]:
    """The config, and (digest, kind) of all content that belongs to the image."""
    manifest = parse_manifest(read_blob(core, wanted.manifest_digest, MANIFEST_MAX_BYTES))
    if isinstance(manifest, Index):
        raise InvalidImage("an index is no image: commit the manifest chosen from it", value=wanted.manifest_digest)
    config = parse_config(read_blob(core, manifest.config.digest, 8 << 20))
    check_layers(config, len(manifest.layers))
    blobs = [(wanted.manifest_digest, "manifest"), (config.digest, "config")]
    if manifest.config.digest != config.digest:  # named by sha512; an image's ID is a sha256
        blobs.append((manifest.config.digest, "config"))
    blobs += [(layer.digest, "layer") for layer in manifest.layers]
    target = wanted.target_digest
    if target and target != wanted.manifest_digest and core.database.read("SELECT 1 FROM blobs WHERE digest = ?", (target,)):
        blobs.append((target, "index"))
    return config, blobs


def _check_layers(config: ImageConfig, given: Sequence[NewLayer]) -> None:
    found = [(layer.chain_id, layer.diff_id) for layer in given]
    if found != list(zip(config.chain_ids, config.diff_ids)):
        raise InvalidImage("the layers given are not those of the image's config", field="/rootfs/diff_ids",
                           value=", ".join(diff for _, diff in found)[:160])


def _claim(core: Core, lease: Lease, digests: list[str]) -> bool:
    """All the content is there and stays; some of it is not known to be on stable storage.

    Raises StoreError that names what is missing.
    """
    fresh = False
    with core.database.write(durable=False) as rows:
        for digest in digests:
            found = rows.execute("SELECT synced FROM blobs WHERE digest = ?", (digest,)).fetchone()
            if not found:
                raise StoreError(f"content {digest} of the image is not in the store", value=digest,
                                 hint="every layer, the config and the manifest are stored before the image is")
            fresh |= not found[0]
        rows.executemany("INSERT OR IGNORE INTO claims VALUES(?, 'blob', ?)", [(lease.id, digest) for digest in digests])
    return fresh


def _add_layers(rows: sqlite3.Connection, given: Sequence[NewLayer], placed: dict[str, str], lost: list[str]) -> None:
    """Rows of the layers; the places of those that another writer committed meanwhile are `lost`."""
    parent: str | None = None
    for layer in given:
        place = placed.get(layer.chain_id)
        there = rows.execute("SELECT 1 FROM layers WHERE chain = ?", (layer.chain_id,)).fetchone()
        if there:
            lost += [place] if place else []
        elif place is None:
            raise StoreError(f"layer {layer.chain_id} is not in the store", value=layer.chain_id,
                             hint="ask for it under the lease, so that it stays")
        else:
            rows.execute("INSERT INTO layers VALUES(?, ?, ?, ?, ?)",
                         (layer.chain_id, layer.diff_id, parent, layer.size, place))
        parent = layer.chain_id


def _add_image(rows: sqlite3.Connection, config: ImageConfig, wanted: Appearance, blobs: list[tuple[str, str]]) -> None:
    top = config.chain_ids[-1] if config.diff_ids else None
    size = 0
    for chain in config.chain_ids:
        size += rows.execute("SELECT size FROM layers WHERE chain = ?", (chain,)).fetchone()[0]
    rows.execute("INSERT OR IGNORE INTO images VALUES(?, ?, ?, ?, '', 0)", (config.digest, config.created, size, top))
    if wanted.parent and wanted.parent != config.digest:
        rows.execute("UPDATE images SET parent = ? WHERE id = ?", (wanted.parent, config.digest))
    rows.executemany("UPDATE blobs SET synced = 1 WHERE digest = ?", [(digest,) for digest, _ in blobs])
    rows.executemany("INSERT OR IGNORE INTO image_blobs VALUES(?, ?, ?)",
                     [(config.digest, digest, kind) for digest, kind in blobs])
    reference = wanted.reference
    if reference is None:
        return
    if wanted.target_digest or reference.digest:
        known = reference.with_digest(reference.digest or wanted.target_digest)
        names.set_reference(rows, known, config.digest)
    if not reference.digest:
        names.set_reference(rows, reference if reference.tag else reference.replace(tag="latest"), config.digest)


def abandon(core: Core, lease: Lease) -> None:
    """What was staged under the lease and not committed goes; the lease ends."""
    for (place,) in core.database.read("SELECT name FROM claims WHERE lease = ? AND kind = 'place'", (lease.id,)):
        if os.path.lexists(core.layer_folder(place)):  # moved in by a commit that failed
            layers.discard(core, [place])
        else:
            layers.remove_tree(core.staging(place))
    with spare_room(core.root), core.database.write(durable=False) as rows:
        rows.execute("DELETE FROM leases WHERE id = ?", (lease.id,))
    if is_low(core.root):
        collect(core)
