"""What the store takes on disk, and whether its rows and files agree."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from pyruntime.errors import ImageError
from pyruntime.image.collect import ALGORITHMS, named_places
from pyruntime.image.config import parse_config
from pyruntime.image.content import CHUNK_BYTES, is_locked, read_blob
from pyruntime.image.core import Usage
from pyruntime.image.digest import Hasher, algorithm_of, digest_of
from pyruntime.image.layers import DIFF
from pyruntime.image.media import MANIFEST_MAX_BYTES, Index, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyruntime.image.core import Core, Image


def disk_usage(core: Core, images: Sequence[Image]) -> Usage:
    """Bytes of layers, blobs and parts; for each image what it shares and what is its alone."""
    with core.database.snapshot() as rows:
        sizes = dict(rows.execute("SELECT chain, size FROM layers").fetchall())
        blobs = rows.execute("SELECT coalesce(sum(size), 0) FROM blobs").fetchone()[0]
    users: dict[str, int] = {}
    for image in images:
        for chain in image.chain_ids:
            users[chain] = users.get(chain, 0) + 1
    shares = []
    for image in images:
        shared = sum(sizes.get(chain, 0) for chain in image.chain_ids if users[chain] > 1)
        alone = sum(sizes.get(chain, 0) for chain in image.chain_ids if users[chain] == 1)
        shares.append((image, shared, alone))
    return Usage(sum(sizes.values()), blobs, _partial_bytes(core), tuple(shares))


def _partial_bytes(core: Core) -> int:
    total = 0
    for name in os.listdir(f"{core.root}/ingest"):
        try:
            total += os.stat(f"{core.root}/ingest/{name}").st_size
        except FileNotFoundError:
            pass
    return total


def verify(core: Core, *, content: bool) -> list[str]:
    """What is wrong, one line each. On a store in use, what comes or goes meanwhile may be named as well."""
    found = [f"the database: {row[0]}" for row in core.database.read("PRAGMA quick_check") if row[0] != "ok"]
    found += [f"the database: a row of {row[0]} names a row of {row[2]} that is not there"
              for row in core.database.read("PRAGMA foreign_key_check")]
    if found:
        return found
    listed = [f"{algorithm}:{name}" for algorithm in ALGORITHMS for name in os.listdir(f"{core.root}/blobs/{algorithm}")]
    places = {folder: os.listdir(f"{core.root}/{folder}") for folder in ("staging", "layers")}
    found += _orphans(core, listed, places)
    found += _blobs(core, content=content)
    found += _layers(core)
    for (image_id,) in core.database.read("SELECT id FROM images"):
        found += _image(core, image_id)
    return found


def _orphans(core: Core, blobs: list[str], places: dict[str, list[str]]) -> Iterator[str]:
    named = named_places(core)
    for folder, names in places.items():
        yield from (f"{folder}/{name} is named by no row and no lease" for name in names if name not in named)
    known = {row[0] for row in core.database.read("SELECT digest FROM blobs")}
    for digest in blobs:
        if digest not in known and not is_locked(core.part_file(digest)):
            yield f"content {digest} has no row"


def _blobs(core: Core, *, content: bool) -> Iterator[str]:
    for digest, size in core.database.read("SELECT digest, size FROM blobs ORDER BY digest"):
        try:
            fd = os.open(core.blob_file(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            yield f"content {digest}: {error.strerror}"
            continue
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                yield f"content {digest} has {status.st_size} bytes, its row says {size}"
            elif content:
                hasher = Hasher(algorithm_of(digest))
                while data := file.read(CHUNK_BYTES):
                    hasher.update(data)
                if hasher.digest() != digest:
                    yield f"content {digest} is damaged: its digest is {hasher.digest()}"


def _layers(core: Core) -> Iterator[str]:
    for chain, diff, parent, place in core.database.read("SELECT chain, diff, parent, place FROM layers ORDER BY chain"):
        if chain != (digest_of(f"{parent} {diff}".encode()) if parent else diff):
            yield f"layer {chain}: is not the chain of {parent} and {diff}"
        if not os.path.isdir(f"{core.layer_folder(place)}/{DIFF}"):
            yield f"layer {chain}: layers/{place}/{DIFF} is not there"


def _image(core: Core, image_id: str) -> Iterator[str]:
    """The config and manifests can be read and all that they name is there."""
    blobs = core.database.read("SELECT blob, kind FROM image_blobs WHERE image = ?", (image_id,))
    named = {row[0] for row in blobs}
    try:
        config = parse_config(read_blob(core, image_id, 8 << 20))
        for blob, kind in blobs:
            if kind != "manifest":
                continue
            manifest = parse_manifest(read_blob(core, blob, MANIFEST_MAX_BYTES))
            if isinstance(manifest, Index):
                yield f"image {image_id}: manifest {blob} is an index"
                continue
            wanted = {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
            yield from (f"image {image_id}: {digest} of manifest {blob} is missing" for digest in sorted(wanted - named))
    except ImageError as error:
        yield f"image {image_id}: {error.message}"
        return
    chains = {row[0] for row in core.database.read("SELECT chain FROM layers")}
    yield from (f"image {image_id}: layer {chain} is missing" for chain in config.chain_ids if chain not in chains)
    top = core.database.read("SELECT coalesce(top, '') FROM images WHERE id = ?", (image_id,))
    if top and top[0][0] != (config.chain_ids[-1] if config.chain_ids else ""):
        yield f"image {image_id}: its top layer is {top[0][0]}"
