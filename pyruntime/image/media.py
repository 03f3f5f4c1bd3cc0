"""Descriptors, manifests and indexes: bytes of a registry or an archive to validated records (image-spec 1.1, Docker v2s2).

A document is one thing only: its media type, the transport's and its structure must agree (CVE-2021-41190). Unknown
fields are ignored here and kept in `raw`, which is what is stored, pushed and hashed.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from pyruntime.errors import InvalidImage
from pyruntime.image.config import History, ImageConfig, parse_config
from pyruntime.image.digest import LENGTHS, algorithm_of, check_digest, digest_of
from pyruntime.image.fields import Fields, load_object
from pyruntime.image.platform import Platform, normalise
from pyruntime.record import Record

__all__ = ["Descriptor", "History", "ImageConfig", "Index", "Manifest", "parse_config", "parse_descriptor", "parse_manifest"]

MANIFEST_MAX_BYTES = 4 << 20
INDEX_DEPTH_MAX = 4  # nested indexes that are followed

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = f"{OCI_LAYER}+gzip"
OCI_LAYER_ZSTD = f"{OCI_LAYER}+zstd"
OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYOUT = "application/vnd.oci.layout.header.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = f"{DOCKER_LAYER}.gzip"
DOCKER_LAYER_ZSTD = f"{DOCKER_LAYER}.zstd"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
SCHEMA1_TYPES = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})
FOREIGN_TYPES = frozenset({OCI_FOREIGN, f"{OCI_FOREIGN}+gzip", f"{OCI_FOREIGN}+zstd", DOCKER_FOREIGN,
                           f"{DOCKER_FOREIGN}.gzip"})
LAYER_TYPES = FOREIGN_TYPES | {OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD}
# What a client of a registry says it reads, best first.
ACCEPT = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
ATTESTATION = ("vnd.docker.reference.type", "attestation-manifest")

_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE = re.compile(rf"{_NAME}/{_NAME}")  # RFC 6838, 4.2
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s]+")


class Descriptor(Record):
    """Names content: what it is, its digest and size in bytes. `data` is the content itself when it was embedded."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    platform: Platform | None = None
    artifact_type: str = ""
    data: bytes | None = None

    @property
    def is_index(self) -> bool:
        """An index or manifest list."""
        return self.media_type in INDEX_TYPES

    @property
    def is_manifest(self) -> bool:
        """A manifest of one image."""
        return self.media_type in MANIFEST_TYPES

    @property
    def is_foreign(self) -> bool:
        """A layer that is not to be pushed and may come from its `urls`."""
        return self.media_type in FOREIGN_TYPES

    @property
    def is_attestation(self) -> bool:
        """Says something about another entry of its index; is never run."""
        return self.annotations.get(ATTESTATION[0]) == ATTESTATION[1] or (
            self.platform is not None and (self.platform.os, self.platform.architecture) == ("unknown", "unknown")
        )


class Manifest(Record):
    """One image or artifact: config and layers, base first. `raw` is the document byte for byte, `digest` its own."""

    raw: bytes
    digest: str
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}
    subject: Descriptor | None = None
    artifact_type: str = ""


class Index(Record):
    """Several manifests, usually of one image for several platforms."""

    raw: bytes
    digest: str
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}
    subject: Descriptor | None = None
    artifact_type: str = ""


def parse_descriptor(value: Any, at: str = "", what: str = "descriptor") -> Descriptor:
    """The descriptor at pointer `at`. Embedded `data` must match digest and size. Raises InvalidImage."""
    fields = Fields(value, at, what)
    media_type = fields.text("mediaType", required=True)
    _check_media_type(fields, "mediaType", media_type)
    artifact_type = fields.text("artifactType")
    if artifact_type:
        _check_media_type(fields, "artifactType", artifact_type)
    digest = check_digest(fields.text("digest", required=True), field=f"{at}/digest")
    urls = fields.strings("urls")
    for number, url in enumerate(urls):
        if not _URL.fullmatch(url):
            raise InvalidImage(f"{what}: {at}/urls/{number} is no URL", field=f"{at}/urls/{number}", value=url)
    return Descriptor(media_type, digest, fields.number("size", required=True), urls, fields.string_table("annotations"),
                      _platform(fields), artifact_type, _data(fields, digest))


def _check_media_type(fields: Fields, key: str, text: str) -> None:
    if not _MEDIA_TYPE.fullmatch(text):
        fields.refuse(key, "is no media type", "a media type is type/subtype (RFC 6838)")


def _platform(fields: Fields) -> Platform | None:
    if not fields.has("platform"):
        return None
    inner = Fields(fields.values["platform"], f"{fields.at}/platform", fields.what)
    inner.strings("os.features")
    return normalise(inner.text("os", required=True), inner.text("architecture", required=True), inner.text("variant"),
                     inner.text("os.version"))


def _data(fields: Fields, digest: str) -> bytes | None:
    if not fields.has("data"):
        return None
    try:
        data = base64.b64decode(fields.text("data"), validate=True)
    except (binascii.Error, ValueError):
        fields.refuse("data", "is not base64 with its padding")
    if len(data) != fields.number("size"):
        fields.refuse("data", f"holds {len(data)} bytes, not `size`")
    if algorithm_of(digest) in LENGTHS and digest_of(data, algorithm_of(digest)) != digest:
        fields.refuse("data", "does not match the digest beside it")
    return data


def parse_manifest(raw: bytes, content_type: str = "", expected: str = "") -> Manifest | Index:
    """The manifest or index in `raw`.

    `content_type` is the transport's, with or without parameters; `expected` the media type of the descriptor it was
    fetched through; "" when there is none. Both bind only where they name a manifest or index. Raises InvalidImage for
    what is too large, of schema 1, of no or of two kinds, or contradicts them.
    """
    document = load_object(raw, what="manifest", limit_bytes=MANIFEST_MAX_BYTES)
    fields = Fields(document, "", "manifest")
    media_type = _decide(fields, content_type.partition(";")[0].strip().lower(), expected)
    common = (fields.string_table("annotations"), _subject(fields), fields.text("artifactType"))
    if common[2]:
        _check_media_type(fields, "artifactType", common[2])
    if media_type in INDEX_TYPES:
        entries = fields.items("manifests", required=True)
        found = tuple(parse_descriptor(v, f"/manifests/{i}", "index") for i, v in enumerate(entries))
        return Index(raw, digest_of(raw), media_type, found, *common)
    config = parse_descriptor(fields.table("config", required=True), "/config", "manifest")
    entries = fields.items("layers", required=True)
    layers = tuple(parse_descriptor(v, f"/layers/{i}", "manifest") for i, v in enumerate(entries))
    if not layers and media_type == OCI_MANIFEST:
        fields.refuse("layers", "must have an entry", "an image without files carries one empty layer")
    return Manifest(raw, digest_of(raw), media_type, config, layers, *common)


def _subject(fields: Fields) -> Descriptor | None:
    return parse_descriptor(fields.values["subject"], "/subject", fields.what) if fields.has("subject") else None


def _decide(fields: Fields, content_type: str, expected: str) -> str:
    """The document's media type; see parse_manifest."""
    _refuse_schema1(fields, content_type)
    stated = fields.text("mediaType")
    structure = _structure(fields)
    said = [("Content-Type", content_type), ("mediaType", stated), ("descriptor", expected)]
    bound = [(source, text) for source, text in said
             if text in INDEX_TYPES | MANIFEST_TYPES or (source == "mediaType" and text)]
    for source, text in bound[1:]:
        if text != bound[0][1]:
            raise InvalidImage(f"manifest: its {bound[0][0]} is {bound[0][1]}, its {source} {text}", field="/mediaType",
                               value=text, hint="one document is one thing: the registry or the image is at fault")
    if not bound:
        return OCI_INDEX if structure == "index" else OCI_MANIFEST
    media_type = bound[0][1]
    if media_type not in INDEX_TYPES | MANIFEST_TYPES:
        fields.refuse("mediaType", "is no manifest or index", f"known are {', '.join(ACCEPT)}")
    if (structure == "index") != (media_type in INDEX_TYPES):
        raise InvalidImage(f"manifest: its media type is {media_type}, its content that of "
                           f"{'an index' if structure == 'index' else 'a manifest'}", field="/mediaType", value=media_type,
                           hint="a document that is two things is refused (CVE-2021-41190)")
    return media_type


def _refuse_schema1(fields: Fields, content_type: str) -> None:
    version = fields.values.get("schemaVersion")
    if content_type in SCHEMA1_TYPES or version == 1 or "fsLayers" in fields.values:
        raise InvalidImage("manifest: schema version 1 is no longer supported", field="/schemaVersion", value=str(version),
                           hint="push the image again with a client of 2017 or later")
    if fields.number("schemaVersion", required=True) != 2:
        fields.refuse("schemaVersion", "must be 2")


def _structure(fields: Fields) -> str:
    """`index` or `manifest`. Keys are looked at without regard to case, as Go's readers do."""
    keys = [key.lower() for key in fields.values]
    index = "manifests" in keys
    image = [key for key in ("config", "layers") if key in keys]
    for key in ("manifests", "config", "layers", "mediatype", "schemaversion"):
        if keys.count(key) > 1:
            raise InvalidImage(f"manifest: {key} comes twice, in two spellings", field=f"/{key}",
                               hint="readers would disagree about it")
    if index and image:
        raise InvalidImage("manifest: both `manifests` and `" + "`, `".join(image) + "`", field="/manifests",
                           hint="a document that is two things is refused (CVE-2021-41190)")
    if not index and len(image) < 2:
        raise InvalidImage("manifest: neither `manifests` nor `config` and `layers`", field="/layers",
                           hint="is it a manifest?")
    return "index" if index else "manifest"
