"""`save`: images as one tar that is an OCI layout and Docker's archive at once, or as a layout in a folder.

Content goes out as it is stored, so that every digest stays. What is written depends on the images alone: no time, no
owner, a fixed order. Layers in zstd are there a second time, plain, for the readers of manifest.json, of which many
know gzip alone.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from pyruntime.errors import InvalidImage
from pyruntime.image.archive import FULL_NAME, LAYOUT, REF_NAME, Archived
from pyruntime.image.archive_blobs import inflated_pieces, pieces_of, write_all
from pyruntime.image.archive_inflate import sniff
from pyruntime.image.archive_tar import TarWriter
from pyruntime.image.digest import Hasher, algorithm_of, encoded_of
from pyruntime.image.fields import load_object
from pyruntime.image.media import MANIFEST_MAX_BYTES, OCI_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyruntime.image.archive_blobs import Blobs
    from pyruntime.image.archive_tar import Write


def save_archive(write: Write, blobs: Blobs, images: Sequence[Archived]) -> None:
    """Writes the archive of `images` to `write`; content that several share is there once.

    A layer that is not in `blobs` and has `urls` is left out, as its publisher wants; any other raises InvalidImage
    before the first byte is written.
    """
    digests = _digests(blobs, images)
    plain = _plain_copies(blobs, images)
    tar = TarWriter(write)
    tar.directory("blobs")
    for algorithm in sorted({algorithm_of(digest) for digest in digests}):
        tar.directory(f"blobs/{algorithm}")
    for digest in digests:
        tar.stream(_path(digest), blobs.size(digest), pieces_of(blobs, digest))
    for digest, (diff_id, size) in plain.items():
        if diff_id not in digests:
            tar.stream(_path(diff_id), size, inflated_pieces(blobs, digest))
    tar.file("index.json", _dump(_index(images, [])))
    tar.file("manifest.json", _dump([_entry(image, plain) for image in images]))
    tar.file("oci-layout", LAYOUT)
    tar.file("repositories", _dump(_repositories(images)))
    tar.close()


def save_layout(path: str, blobs: Blobs, images: Sequence[Archived]) -> None:
    """Writes `images` into the OCI layout at `path`, which is made when it is not there.

    Images that it has stay, but for one of a name that is written now. index.json is replaced last, by rename, so that
    a reader sees the old images or the new ones. Raises InvalidImage for a folder that is something else.
    """
    digests = _digests(blobs, images)
    kept = _open_layout(path)
    for digest in digests:
        os.makedirs(f"{path}/blobs/{algorithm_of(digest)}", exist_ok=True)
        if not os.path.exists(f"{path}/{_path(digest)}"):
            _replace(f"{path}/{_path(digest)}", pieces_of(blobs, digest))
    _replace(f"{path}/oci-layout", iter((LAYOUT,)))
    _replace(f"{path}/index.json", iter((_dump(_index(images, kept)),)))


def _digests(blobs: Blobs, images: Sequence[Archived]) -> list[str]:
    """All content, each once, in the order in which a reader wants it: config, layers, manifest of each image."""
    found: dict[str, None] = {}
    for image in images:
        found[image.manifest.config.digest] = None
        for layer in image.manifest.layers:
            if blobs.has(layer.digest):
                found[layer.digest] = None
            elif not layer.urls:
                raise InvalidImage(f"layer {layer.digest} is not in the store", value=layer.digest,
                                   hint="pull the image again")
        found[image.manifest.digest] = None
    return list(found)


# ---- documents ----
def _index(images: Sequence[Archived], kept: list[dict[str, Any]]) -> dict[str, Any]:
    """index.json: an entry for each name of each image, one without a name for an image that has none."""
    entries = []
    for image in images:
        base = {"mediaType": image.manifest.media_type, "digest": image.manifest.digest, "size": len(image.manifest.raw)}
        entries += [base | {"annotations": {FULL_NAME: str(ref), REF_NAME: ref.tag}} for ref in image.references] or [base]
    names = {_name_of(entry) for entry in entries} - {("", "")}
    digests = {entry["digest"] for entry in entries}
    stay = [entry for entry in kept if _name_of(entry) not in names
            and (_name_of(entry) != ("", "") or entry.get("digest") not in digests)]
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": stay + entries}


def _name_of(entry: dict[str, Any]) -> tuple[str, str]:
    annotations = entry.get("annotations") or {}
    return (annotations.get(FULL_NAME) or "", annotations.get(REF_NAME) or "")


def _entry(image: Archived, plain: dict[str, tuple[str, int]]) -> dict[str, Any]:
    """An image of manifest.json. A foreign layer has its descriptor in LayerSources."""
    layers, sources = [], {}
    for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids):
        layers.append(_path(plain[layer.digest][0] if layer.digest in plain else layer.digest))
        if layer.is_foreign and layer.urls:
            sources[diff_id] = {"mediaType": layer.media_type, "size": layer.size, "digest": layer.digest,
                                "urls": list(layer.urls)}
    entry: dict[str, Any] = {
        "Config": _path(image.manifest.config.digest),
        "RepoTags": [ref.familiar for ref in image.references] or None,
        "Layers": layers,
    }
    return entry | ({"LayerSources": sources} if sources else {})


def _repositories(images: Sequence[Archived]) -> dict[str, dict[str, str]]:
    """For readers from before manifest.json: repository, tag, top layer."""
    found: dict[str, dict[str, str]] = {}
    for image in images:
        top = image.config.diff_ids[-1] if image.config.diff_ids else image.config.digest
        for ref in image.references:
            found.setdefault(ref.familiar_name, {})[ref.tag] = encoded_of(top)
    return found


def _dump(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


# ---- plain copies of zstd layers ----
def _plain_copies(blobs: Blobs, images: Sequence[Archived]) -> dict[str, tuple[str, int]]:
    """Layer digest -> (DiffID, size when plain) for the layers in zstd. Each is read once for it, and verified."""
    found: dict[str, tuple[str, int]] = {}
    for image in images:
        for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids):
            if layer.digest in found or not blobs.has(layer.digest) or not _is_zstd(blobs, layer.digest):
                continue
            hasher = Hasher(algorithm_of(diff_id))
            for piece in inflated_pieces(blobs, layer.digest):
                hasher.update(piece)
            if hasher.digest() != diff_id:
                raise InvalidImage(f"layer {layer.digest} is not the one of its image's config", value=layer.digest,
                                   hint="remove the image and pull it again")
            found[layer.digest] = (diff_id, hasher.size)
    return found


def _is_zstd(blobs: Blobs, digest: str) -> bool:
    with open(blobs.open(digest), "rb") as file:
        return sniff(file.read(6)) == "zstd"


# ---- files of a layout ----
def _open_layout(path: str) -> list[dict[str, Any]]:
    """The entries of the layout at `path`; none when it is new. A folder that is no layout must be empty."""
    os.makedirs(path, exist_ok=True)
    if not os.path.exists(f"{path}/index.json"):
        if os.listdir(path):
            raise InvalidImage(f"{path} is no OCI layout and not empty", value=path, hint="name a new folder")
        return []
    with open(f"{path}/index.json", "rb") as file:
        document = load_object(file.read(MANIFEST_MAX_BYTES + 1), what=f"{path}/index.json", limit_bytes=MANIFEST_MAX_BYTES)
    entries = document.get("manifests")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidImage(f"{path}/index.json is no index", value=path)
    return entries


def _replace(path: str, pieces: Iterator[bytes]) -> None:
    """A file of this content, whole or not there."""
    part = f"{path}.{os.getpid()}"
    try:
        with open(part, "wb", buffering=0) as file:
            for piece in pieces:
                write_all(file.fileno(), piece)
        os.rename(part, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


def _path(digest: str) -> str:
    return f"blobs/{algorithm_of(digest)}/{encoded_of(digest)}"
