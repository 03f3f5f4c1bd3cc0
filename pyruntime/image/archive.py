"""Images in archives: what `load` finds in one, whatever tool wrote it, and what `save` writes.

    docker save, oldest  repositories, ID/json and ID/layer.tar: archive_legacy.py
    docker save, old     manifest.json [{Config, RepoTags, Layers}], layers as plain or compressed tars, links among them
    OCI layout           oci-layout, index.json, blobs/ALG/HEX; in a tar or in a folder
    save of today        both at once, on the same blobs: what archive_save.py writes

Where both are there, the manifest of the layout is the image's, byte for byte, and manifest.json gives the names. An
image of the old form has no manifest: it gets one, made from its config and layers alone, the same each time.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pyruntime.errors import ImageError, ImageNotFound, InvalidImage
from pyruntime.image import media
from pyruntime.image.archive_blobs import inflated_pieces
from pyruntime.image.archive_inflate import sniff
from pyruntime.image.config import CONFIG_MAX_BYTES, check_layers, parse_config
from pyruntime.image.digest import digest_of
from pyruntime.image.fields import Fields, load_object
from pyruntime.image.media import Descriptor, Index, Manifest, parse_manifest
from pyruntime.image.platform import Platform, host_platform, rank, select
from pyruntime.image.reference import Reference, parse_familiar, parse_reference
from pyruntime.image.unpack import DEFAULT_LIMITS
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyruntime.image.archive_blobs import Blobs
    from pyruntime.image.archive_contents import Contents
    from pyruntime.image.config import ImageConfig

IMAGES_MAX = 1000
REF_NAME = "org.opencontainers.image.ref.name"
FULL_NAME = "io.containerd.image.name"  # of save's and containerd's archives; the name above is a tag there
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_LAYER_TYPES = {"": media.OCI_LAYER, "gzip": media.OCI_LAYER_GZIP, "zstd": media.OCI_LAYER_ZSTD}


class Archived(Record):
    """One image of an archive. Its config and layers are in the archive's `blobs`; `references` have a tag each."""

    manifest: Manifest
    config: ImageConfig
    references: tuple[Reference, ...] = ()


def read_images(contents: Contents, *, platform: Platform | None = None, name: str = "") -> list[Archived]:
    """The images, in the order of manifest.json, then of index.json.

    `platform`: which one of an index is meant, None the host's. `name`: the repository of images that the archive names
    by a tag alone, as many tools do in layouts; without it they have no name. Raises InvalidImage for an archive that
    is incomplete or no archive of images, ImageNotFound for a platform that it lacks.
    """
    found: dict[str, Archived] = {}
    index, manifests = contents.document("index.json"), contents.document("manifest.json")
    if index is None and manifests is None:
        from pyruntime.image.archive_legacy import legacy_images

        if images := legacy_images(contents):
            return images
        raise InvalidImage("the archive has neither a manifest.json nor an index.json",
                           hint="it is no archive of images; a root file system is for import")
    if index is not None:
        _check_layout(contents)
        for image in _of_index(contents, index, platform, name):
            _merge(found, image)
    if manifests is None:
        return _or_none(found)
    named = [_of_entry(contents, fields, found) for fields in _entries(manifests)]
    both: dict[str, Archived] = {}
    for image in named + list(found.values()):
        _merge(both, image)
    return _or_none(both)


def _or_none(found: dict[str, Archived]) -> list[Archived]:
    if not found:
        raise InvalidImage("the archive holds no image", hint="artifacts and attestations alone cannot be loaded")
    return list(found.values())


def _merge(found: dict[str, Archived], image: Archived) -> None:
    """One image under all of its names; a name is given once."""
    key = image.config.digest
    known = found.get(key, image)
    found[key] = known.replace(references=tuple(dict.fromkeys(known.references + image.references)))


# ---- the OCI layout ----
def _check_layout(contents: Contents) -> None:
    raw = contents.document("oci-layout")
    if raw is None:
        if contents.document("manifest.json") is None:
            raise InvalidImage("the layout has no oci-layout file", hint="image-spec image-layout.md")
        return
    fields = Fields(load_object(raw, what="oci-layout", limit_bytes=4096), "", "oci-layout")
    version = fields.text("imageLayoutVersion", required=True)
    if version.partition(".")[0] != "1":
        fields.refuse("imageLayoutVersion", "is not known", "known is 1.0.0")


def _of_index(contents: Contents, raw: bytes, platform: Platform | None, name: str) -> Iterable[Archived]:
    index = parse_manifest(raw, "", media.OCI_INDEX)
    assert isinstance(index, Index)
    groups: dict[tuple[str, str, int], list[Descriptor]] = {}
    for number, entry in enumerate(index.manifests):
        if not entry.is_attestation and (entry.is_manifest or entry.is_index):
            full, tag = entry.annotations.get(FULL_NAME) or "", entry.annotations.get(REF_NAME) or ""
            groups.setdefault((full, tag, -1 if full or tag else number), []).append(entry)
    for (full, tag, _), entries in groups.items():
        # One name for several platforms is one image, as in an index.
        entry = entries[0] if len(entries) == 1 else _choose(index.replace(manifests=tuple(entries)), platform)
        manifest = _manifest(contents, entry, platform)
        if (config := _config(contents, manifest)) is not None:
            yield Archived(manifest, config, _names(full, tag, name))


def _names(full: str, ref_name: str, repository: str) -> tuple[Reference, ...]:
    """The reference that the annotations mean. REF_NAME counts: a whole one, or a tag of FULL_NAME or `repository`."""
    try:
        if ":" in ref_name or "/" in ref_name:
            found = parse_reference(ref_name)
        elif not (full or repository):
            return ()
        else:
            found = parse_reference(full or repository)
            found = found.with_tag(ref_name) if ref_name else found
    except ImageError:
        return ()  # the specification lets a ref.name be any text
    return (found,) if found.tag else ()


def _choose(index: Index, platform: Platform | None) -> Descriptor:
    """The entry for the platform; the only one when there is but one."""
    entries = [e for e in index.manifests if not e.is_attestation and (e.is_manifest or e.is_index)]
    if len(entries) == 1 and platform is None:
        return entries[0]
    return select(index, platform or host_platform())


def _manifest(contents: Contents, entry: Descriptor, platform: Platform | None) -> Manifest:
    """The manifest that a descriptor leads to, through as many indexes as are followed."""
    for _ in range(media.INDEX_DEPTH_MAX + 1):
        raw = _document(contents, entry, media.MANIFEST_MAX_BYTES)
        found = parse_manifest(raw, "", entry.media_type)
        if isinstance(found, Manifest):
            return found
        # An archive may hold a part of an index only.
        here = tuple(e for e in found.manifests if contents.take(e.digest, e.size))
        if not here:
            raise InvalidImage(f"the archive has no manifest of index {entry.digest}", value=entry.digest,
                               hint="it is incomplete: save the image again")
        entry = _choose(found.replace(manifests=here), platform)
    raise InvalidImage(f"indexes are nested deeper than {media.INDEX_DEPTH_MAX}", value=entry.digest)


def _config(contents: Contents, manifest: Manifest) -> ImageConfig | None:
    """The config, with all layers seen to be there; None for what is no image."""
    if manifest.config.media_type not in media.CONFIG_TYPES:
        return None
    config = parse_config(_document(contents, manifest.config, CONFIG_MAX_BYTES))
    check_layers(config, len(manifest.layers))
    for layer in manifest.layers:
        if not contents.take(layer.digest, layer.size):
            hint = f"it may come from {layer.urls[0]}" if layer.urls else "it is incomplete: save the image again"
            raise InvalidImage(f"the archive has no layer {layer.digest}", value=layer.digest, hint=hint)
    return config


def _document(contents: Contents, entry: Descriptor, limit_bytes: int) -> bytes:
    if entry.size > limit_bytes:
        raise InvalidImage(f"{entry.digest} has {entry.size} bytes, more than the {limit_bytes} that are read",
                           value=entry.digest)
    if not contents.take(entry.digest, entry.size):
        raise InvalidImage(f"the archive has no content {entry.digest}", value=entry.digest,
                           hint="it is incomplete: save the image again")
    raw = contents.blobs.read(entry.digest, limit_bytes)
    if digest_of(raw) != entry.digest:  # named by sha512; images and manifests are known by their sha256
        contents.blobs.add(iter((raw,)), len(raw), digest_of(raw))
    return raw


# ---- manifest.json ----
def _entries(raw: bytes) -> list[Fields]:
    """The images of manifest.json, an array of objects."""
    wrapped = load_object(b'{"images":' + raw + b"}", what="manifest.json", limit_bytes=media.MANIFEST_MAX_BYTES + 11)
    items = Fields(wrapped, "", "manifest.json").items("images", required=True)
    if len(items) > IMAGES_MAX:
        raise InvalidImage(f"manifest.json names {len(items)} images, more than {IMAGES_MAX}")
    return [Fields(item, f"/{number}", "manifest.json") for number, item in enumerate(items)]


def _of_entry(contents: Contents, fields: Fields, known: dict[str, Archived]) -> Archived:
    config_digest = contents.digest_at(fields.text("Config", required=True))
    references = tuple(parse_tag(text, fields.what, f"{fields.at}/RepoTags") for text in fields.strings("RepoTags"))
    if config_digest in known:
        return known[config_digest].replace(references=references)
    config = parse_config(contents.blobs.read(config_digest, CONFIG_MAX_BYTES))
    layers = [contents.digest_at(name) for name in fields.strings("Layers")]
    check_layers(config, len(layers))
    sources = fields.table("LayerSources")
    described = [_layer(contents, digest, sources.get(diff_id)) for digest, diff_id in zip(layers, config.diff_ids)]
    return archived(contents, config, described, references)


def archived(contents: Contents, config: ImageConfig, layers: list[dict[str, Any]],
             references: tuple[Reference, ...]) -> Archived:  # fmt: skip
    """An image that came without a manifest, with the one that is made for it."""
    raw = make_manifest(_descriptor(media.OCI_CONFIG, config.digest, len(config.raw)), layers)
    contents.blobs.add(iter((raw,)), len(raw), digest_of(raw))
    manifest = parse_manifest(raw)
    assert isinstance(manifest, Manifest)
    return Archived(manifest, config, references)


def parse_tag(text: str, what: str, at: str) -> Reference:
    """A name that a document of an archive gives to an image. Raises InvalidImage, InvalidReference."""
    found = parse_familiar(text)
    if found.digest or not found.tag:
        raise InvalidImage(f"{what}: invalid tag {text!r}", field=at, value=text,
                           hint="a name of an archive is NAME:TAG")
    return found


def _layer(contents: Contents, digest: str, source: Any) -> dict[str, Any]:
    """The descriptor of a layer; one that has `urls` keeps them and its type (LayerSources)."""
    if source is not None:
        size = contents.blobs.size(digest)
        found = media.parse_descriptor(source, "/LayerSources", "manifest.json")
        if found.is_foreign and found.urls and found.digest == digest:
            return _descriptor(found.media_type, digest, size) | {"urls": list(found.urls)}
    kind = kind_of(contents.blobs, digest)
    if kind not in _LAYER_TYPES:  # no manifest may name such a layer
        digest, kind = plain_copy(contents.blobs, digest), ""
    return _descriptor(_LAYER_TYPES[kind], digest, contents.blobs.size(digest))


def kind_of(blobs: Blobs, digest: str) -> str:
    """How content is compressed; see sniff."""
    with open(blobs.open(digest), "rb") as file:
        return sniff(file.read(6))


def plain_copy(blobs: Blobs, digest: str) -> str:
    """The digest of a layer without its compression, which `blobs` has from now on; bounded as unpacking it would be."""
    bounds = DEFAULT_LIMITS
    most = min(bounds.total_bytes, max(bounds.ratio_from, bounds.ratio * blobs.size(digest)))
    try:
        return blobs.add(inflated_pieces(blobs, digest, limit_bytes=most), -1)
    except InvalidImage as error:
        raise error.within(f"layer {digest}") from None


def make_manifest(config: dict[str, Any], layers: list[dict[str, Any]]) -> bytes:
    """An OCI manifest of these descriptors. The same input gives the same bytes."""
    if not layers:  # the specification wants an entry; Docker's form does not
        return _dump({"schemaVersion": 2, "mediaType": media.DOCKER_MANIFEST,
                      "config": config | {"mediaType": media.DOCKER_CONFIG}, "layers": []})
    return _dump({"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": config, "layers": layers})


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _dump(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def fits(config: ImageConfig, platform: Platform | None) -> bool:
    """Whether an image runs on `platform`, None the host."""
    return rank(platform or host_platform(), config.platform) is not None


def check_platform(image: Archived, platform: Platform | None) -> None:
    """Raises ImageNotFound when the caller asked for a platform that the image is not for."""
    if platform is not None and not fits(image.config, platform):
        raise ImageNotFound(f"no image for {platform} in the archive", value=str(platform),
                            hint=f"platforms offered: {image.config.platform}")
