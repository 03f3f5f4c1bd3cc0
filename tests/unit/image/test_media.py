"""Manifests, indexes, descriptors and configs: rules that the published tables do not hold."""

from __future__ import annotations

import json

import pytest

from pyruntime.errors import InvalidImage
from pyruntime.image import media
from pyruntime.image.config import CONFIG_MAX_BYTES, check_layers, parse_config
from pyruntime.image.digest import digest_of
from pyruntime.image.media import Index, Manifest, parse_manifest

D1 = digest_of(b"1")
D2 = digest_of(b"2")
CONFIG = {"mediaType": media.OCI_CONFIG, "digest": D1, "size": 1}
LAYER = {"mediaType": media.OCI_LAYER_GZIP, "digest": D2, "size": 1}
MANIFEST = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": CONFIG, "layers": [LAYER]}
ENTRY = {"mediaType": media.OCI_MANIFEST, "digest": D1, "size": 1}
INDEX = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [ENTRY]}
DOCKER = MANIFEST | {"mediaType": media.DOCKER_MANIFEST}


def raw(document: dict, **changes) -> bytes:
    return json.dumps({k: v for k, v in (document | changes).items() if v != "-"}).encode()


@pytest.mark.parametrize(("data", "content_type", "expected", "kind", "media_type"), [
    (raw(MANIFEST), "", "", Manifest, media.OCI_MANIFEST),
    (raw(MANIFEST, mediaType="-"), "", "", Manifest, media.OCI_MANIFEST),
    (raw(MANIFEST, mediaType="-"), f"{media.DOCKER_MANIFEST}; charset=utf-8", "", Manifest, media.DOCKER_MANIFEST),
    (raw(MANIFEST), "application/json", "", Manifest, media.OCI_MANIFEST),
    (raw(MANIFEST), "text/plain", media.OCI_MANIFEST, Manifest, media.OCI_MANIFEST),
    (raw(INDEX), media.OCI_INDEX.upper(), media.OCI_INDEX, Index, media.OCI_INDEX),
    (raw(INDEX, mediaType="-"), "", media.DOCKER_LIST, Index, media.DOCKER_LIST),
    (raw(INDEX, manifests=[]), "", "", Index, media.OCI_INDEX),
    (raw(DOCKER, layers=[]), "", "", Manifest, media.DOCKER_MANIFEST),
    (raw(MANIFEST, annotations=None, subject=None), "", "", Manifest, media.OCI_MANIFEST),
])
def test_kind_is_decided(data, content_type, expected, kind, media_type) -> None:
    found = parse_manifest(data, content_type, expected)
    assert type(found) is kind
    assert (found.media_type, found.raw, found.digest) == (media_type, data, digest_of(data))


@pytest.mark.parametrize(("data", "content_type", "expected", "field", "word"), [
    (raw(MANIFEST), media.OCI_INDEX, "", "/mediaType", "Content-Type"),
    (raw(MANIFEST), media.DOCKER_MANIFEST, "", "/mediaType", "Content-Type"),
    (raw(MANIFEST), "", media.OCI_INDEX, "/mediaType", "descriptor"),
    (raw(MANIFEST, mediaType="-"), media.OCI_MANIFEST, media.OCI_INDEX, "/mediaType", "descriptor"),
    (raw(MANIFEST, mediaType=media.OCI_INDEX), "", "", "/mediaType", "a manifest"),
    (raw(INDEX, mediaType="-"), media.OCI_MANIFEST, "", "/mediaType", "an index"),
    (raw(MANIFEST, manifests=[]), "", "", "/manifests", "both"),
    (raw(INDEX, layers=[]), "", "", "/manifests", "both"),
    (raw(INDEX, Config={}), "", "", "/manifests", "both"),
    (raw(MANIFEST, Layers=[]), "", "", "/layers", "twice"),
    (raw(MANIFEST, MediaType=media.OCI_INDEX), "", "", "/mediatype", "twice"),
    (b'{"schemaVersion":2,"schemaVersion":2}', "", "", "", "twice"),
    (raw(MANIFEST, layers="-"), "", "", "/layers", "neither"),
    (raw(MANIFEST, mediaType="text/html"), "", "", "/mediaType", "no manifest"),
    (raw(MANIFEST, schemaVersion=1), "", "", "/schemaVersion", "no longer supported"),
    (raw(MANIFEST), media.DOCKER_SCHEMA1_SIGNED, "", "/schemaVersion", "no longer supported"),
    (raw(MANIFEST, schemaVersion=3), "", "", "/schemaVersion", "must be 2"),
    (raw(MANIFEST, schemaVersion="-"), "", "", "/schemaVersion", "missing"),
    (raw(MANIFEST, layers=[LAYER, LAYER | {"size": True}]), "", "", "/layers/1/size", "a boolean"),
    (raw(MANIFEST, layers=[LAYER | {"size": 1 << 63}]), "", "", "/layers/0/size", "from 0"),
    (raw(MANIFEST, annotations={"a": 1}), "", "", "/annotations", "strings"),
    (raw(INDEX, manifests=[ENTRY | {"platform": {"os": "linux"}}]), "", "", "/manifests/0/platform/architecture", "missing"),
    (b" " * (4 << 20) + b"{}", "", "", "", "more than"),
    (b"[" * 100_000, "", "", "", "deep"),
    (b'{"a":NaN}', "", "", "", "not JSON"),
    (b"\xff\xfe{}", "", "", "", "UTF-8"),
    (b"[]", "", "", "", "an array"),
], ids=lambda v: v if isinstance(v, str) and v else "")
def test_refused(data, content_type, expected, field, word) -> None:
    with pytest.raises(InvalidImage) as caught:
        parse_manifest(data, content_type, expected)
    assert caught.value.field == field
    assert word in caught.value.message
    assert len(caught.value.value) < 200


def test_attestations_are_known_by_annotation_or_platform() -> None:
    found = parse_manifest(raw(INDEX, manifests=[
        ENTRY | {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
        ENTRY | {"platform": {"os": "unknown", "architecture": "unknown"}},
        ENTRY,
    ]))
    assert isinstance(found, Index)
    assert [entry.is_attestation for entry in found.manifests] == [True, True, False]


def config(**changes) -> bytes:
    base = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [D1, D2]}}
    return json.dumps({k: v for k, v in (base | changes).items() if v != "-"}).encode()


def test_config_is_read_and_keeps_all_it_had() -> None:
    data = config(history=[{"created_by": "x"}, {"empty_layer": True, "comment": None}], config={"Labels": {"a": "b"}, "Cmd": None},
                  created="2026-01-31T12:00:00.5+01:00", extra=[1], author=None)
    found = parse_config(data)
    assert (found.raw, found.digest, found.diff_ids) == (data, digest_of(data), (D1, D2))
    assert (found.labels, found.document["extra"], found.history[1].empty_layer) == ({"a": "b"}, [1], True)
    assert found.chain_ids == (D1, digest_of(f"{D1} {D2}".encode()))
    check_layers(found, 2)
    with pytest.raises(InvalidImage, match="2 diff_ids, its manifest 3"):
        check_layers(found, 3)
    assert parse_config(config(config=None)).config == {}


@pytest.mark.parametrize(("data", "field"), [
    (config(os="-"), "/os"),
    (config(architecture=None), "/architecture"),
    (config(rootfs="-"), "/rootfs"),
    (config(rootfs={"type": "base", "diff_ids": []}), "/rootfs/type"),
    (config(rootfs={"type": "layers", "diff_ids": ["md5:abc"]}), "/rootfs/diff_ids/0"),
    (config(created="yesterday"), "/created"),
    (config(created=""), "/created"),
    (config(config={"Cmd": "sh"}), "/config/Cmd"),
    (config(config={"Env": ["A=1", "B"]}), "/config/Env/1"),
    (config(config={"Labels": {"a": 1}}), "/config/Labels"),
    (config(config={"Memory": "1g"}), "/config/Memory"),
    (config(history=[{}, {"empty_layer": "yes"}]), "/history/1/empty_layer"),
    (b" " * CONFIG_MAX_BYTES + b"{}", ""),
])
def test_config_refused(data, field) -> None:
    with pytest.raises(InvalidImage) as caught:
        parse_config(data)
    assert caught.value.field == field
